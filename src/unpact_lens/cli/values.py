"""Read `NAME=VALUE` and `NAME=LOW..HIGH` options."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import yaml

from unpact_lens.errors import InputError

Value = str | float | int | bool | list[object] | None
"""Value of an option: a scalar of YAML or a flat list of them."""

LONGEST = 10_000
"""Largest number of characters of a value."""


def read_settings(
    pairs: list[str] | None, option: str = "--set", *, of: Callable[..., object] | None = None, also: str = ""
) -> dict[str, Any]:
    """Read `NAME=VALUE` options. Values are YAML scalars, flat lists, or numbers such as 1e-4.

    Args:
        pairs: Texts of the options.
        option: Name of the option, for error messages.
        of: Function that takes the values as further keyword arguments. Its named parameters are refused: they are
            options of their own, or Python objects.
        also: Named parameters of that function that are accepted all the same.

    Raises:
        InputError: If an option has no name or no `=`, is given twice, is no setting, or is too long.

    >>> read_settings(["lr=1e-4", "phrasings=all", "steps=20", "chat=false", "modules=[a, b]"])
    {'lr': 0.0001, 'phrasings': 'all', 'steps': 20, 'chat': False, 'modules': ['a', 'b']}
    """
    settings: dict[str, Any] = {}
    taken = set() if of is None else {p.name for p in inspect.signature(of).parameters.values() if _named(p)}
    taken -= set(also.split())
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{option} {_short(pair)!r} is not NAME=VALUE, e.g. {option} lr=1e-4")
        if name in taken:
            raise InputError(f"{option} {name}=… is no setting; see --help for the options of this command")
        if name in settings:
            raise InputError(f"{option} {name}=… is given twice; give it once")
        if len(text) > LONGEST:
            raise InputError(f"{option} {name}=… has {len(text)} characters; give at most {LONGEST}")
        settings[name] = _value(text)
    return settings


def read_ranges(pairs: list[str] | None) -> dict[str, tuple[float, float]] | None:
    """Read `NAME=LOW..HIGH` options as a search space, with integers if both ends are integers.

    Returns:
        Both ends by name. None without options.

    Raises:
        InputError: If an option is not of that form.

    >>> read_ranges(["lr=1e-5..1e-3", "steps=10..40"])
    {'lr': (1e-05, 0.001), 'steps': (10, 40)}
    """
    space: dict[str, tuple[float, float]] = {}
    for name, text in read_settings(pairs, "--range").items():
        low, _, high = str(text).partition("..")
        try:
            space[name] = _end(low), _end(high)
        except ValueError:
            raise InputError(
                f"--range {name}={_short(str(text))} is not NAME=LOW..HIGH, e.g. --range lr=1e-5..1e-3"
            ) from None
    return space or None


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not inspect.Parameter.VAR_KEYWORD


def _value(text: str) -> Value:
    """Read one value; text that is neither a scalar nor a flat list stays text."""
    if set(text) & set("&*!%@`{}|>#"):  # anchors, tags and the like are text here, e.g. blocks.*.mlp
        return text
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if isinstance(found, list):
        return [_scalar(v, str(v)) for v in found] if all(_is_scalar(v) for v in found) else text
    return _scalar(found, text)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _scalar(value: object, text: str) -> Value:
    """Return a scalar. YAML reads 1e-4 as text and 1:30 as a number; both are mended."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) and "_" not in value else value
    if value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and ":" not in text):
        return value if text.strip() else ""
    return text


def _end(text: str) -> float:
    number = float(text) if set("e.") & set(text.lower()) else int(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
