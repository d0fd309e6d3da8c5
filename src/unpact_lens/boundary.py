"""Answer wrong arguments of public functions with an error that names the argument.

Functions check their own values. What they do not foresee, e.g. a string in a list of questions, ends somewhere inside
with an error about something else. `guard` looks at the arguments then: one of a wrong Python type is named in a
`TypeError`, a tensor of a wrong shape or dtype in an `InputError`. Models, random seeds, confidence levels and numbers
of draws are checked before the call.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import ParamSpec, TypeVar

import jaxtyping
import numpy as np
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.field_types import fits, type_text

P = ParamSpec("P")
R = TypeVar("R")

CHECKS: list[Callable[[object], None]] = []
"""Functions that look at each argument of a public function before the call, and raise an `InputError` if it is bad.
`unpact_lens.models.ready` adds the one that refuses a model with NaN weights."""

GUARDED = "_unpact_guarded"
"""Attribute of a function that has a guard."""

LARGEST_SEED = 2**63 - 1
"""Largest random seed that every generator accepts."""

MOST_DRAWS = 10_000_000
"""Largest number of draws; their sums fit in memory."""

TAKE_SOURCE_MODELS = ("load_model", "audit")
"""Functions that take a Hugging Face model themselves."""

SOURCE_MODELS = ("PreTrainedModel", "PeftModel")
"""Classes of models without hooks, by name: transformers and PEFT need not be imported for this."""

OTHER_LEVELS = ("tune",)
"""Functions whose `level` is no confidence level."""


def guard_all(namespace: MutableMapping[str, object], names: Iterable[str]) -> None:
    """Put a guard around each function of a package that is among its public names; see `guard`."""
    for name in names:
        value = namespace.get(name)
        if inspect.isfunction(value) and value.__module__.startswith("unpact_lens."):
            namespace[name] = guard(value)


def guard(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that names a wrong argument where the given one ends with an error about something else."""
    if hasattr(function, GUARDED):
        return function

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        _refuse_source_models(function, args, kwargs)
        for check in CHECKS:
            for value in (*args, *kwargs.values()):
                check(value)
        _check_numbers(function, kwargs)
        try:
            return function(*args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            explained = _null_in_path(args, kwargs, error) or _explained(function, args, kwargs)
            if explained is None:
                raise
            raise explained from error

    setattr(guarded, GUARDED, True)
    return guarded


def _refuse_source_models(
    function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> None:
    """Refuse a Hugging Face model where a hooked one is needed, alone or in a list.

    Raises:
        InputError: If there is one. The message tells how to hook it.
    """
    if function.__name__ in TAKE_SOURCE_MODELS:
        return
    for place, value in (*enumerate(args), *kwargs.items()):
        values = value if isinstance(value, (list, tuple)) else (value,)
        found = next((v for v in values if _is_source_model(v)), None)
        if found is not None:
            names = list(inspect.signature(function).parameters)
            name = names[min(place, len(names) - 1)] if isinstance(place, int) else place
            raise InputError(
                f"{name} is a {type(found).__name__}, which has no hooks; "
                "give ul.load_model(hf_model, tokenizer=tokenizer)"
            )


def _is_source_model(value: object) -> bool:
    """Return whether a value is a model of transformers or PEFT."""
    return any(cls.__name__ in SOURCE_MODELS for cls in type(value).__mro__)


def _check_numbers(function: Callable[..., object], given: Mapping[str, object]) -> None:
    """Refuse a random seed, a confidence level or a number of draws that is out of range.

    Raises:
        InputError: If one is.
    """
    hints = _hints(function)
    for name, value in given.items():
        if hints.get(name) is int and name in ("seed", "split_seed") and isinstance(value, int):
            if not 0 <= value <= LARGEST_SEED:
                raise InputError(f"{name}={value!r}; give a whole number of at least 0 and below 2**63")
        elif hints.get(name) is int and name in ("draws", "resamples") and isinstance(value, int):
            if not 1 <= value <= MOST_DRAWS:
                raise InputError(f"{name}={value!r}; give a whole number from 1 to {MOST_DRAWS}")
        elif name != "level" or not isinstance(value, (int, float)) or function.__name__ in OTHER_LEVELS:
            continue
        elif not 0 < value < 1:
            raise InputError(f"level={value!r}; a confidence level lies between 0 and 1, e.g. 0.95")


def _null_in_path(args: tuple[object, ...], kwargs: Mapping[str, object], error: Exception) -> InputError | None:
    """Return the error that names a path with a NUL character, which the system refuses; None for any other error."""
    if not isinstance(error, ValueError) or "embedded null" not in str(error):
        return None
    texts = (v for v in (*args, *kwargs.values()) if isinstance(v, (str, os.PathLike)) and "\0" in os.fspath(v))
    found = next(texts, None)
    return None if found is None else InputError(f"the path {os.fspath(found)!r} holds a NUL character; give another")


def _explained(
    function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> TypeError | InputError | None:
    """Return the error that names the first argument which does not fit its annotation; None if all do."""
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        return None  # An argument is missing or unknown, which Python says itself.
    hints = _hints(function)
    for name, value in given.items():
        if name in hints and not fits(value, hints[name], exact=True):
            text = f"{function.__name__}() got {name}={_short(value)}, a {type(value).__name__}"
            return TypeError(f"{text}; give {type_text(hints[name])}")
    with jaxtyping.jaxtyped("context"):
        for name, value in given.items():
            hint = hints.get(name)
            shaped = [h for h in (typing.get_args(hint) or (hint,)) if hasattr(h, "array_type")]
            if isinstance(value, (Tensor, np.ndarray)) and shaped and not isinstance(value, tuple(shaped)):
                shape = f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
                return InputError(f"{name} has the shape {shape}; give {type_text(hint)}")
    return None


@functools.cache
def _hints(function: Callable[..., object]) -> dict[str, object]:
    """Return the annotation of each parameter that can be looked up at run time."""
    bare = inspect.unwrap(function)
    # Modules that import pandas for type checkers only call it `pd`, too.
    names = {"pd": sys.modules.get("pandas"), **vars(sys.modules.get(bare.__module__, types.ModuleType("none")))}
    found: dict[str, object] = {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, about in inspect.signature(bare).parameters.items():
        if about.kind in variadic or about.annotation is inspect.Parameter.empty:
            continue
        try:
            found[name] = eval(about.annotation, names) if isinstance(about.annotation, str) else about.annotation
        except Exception:  # It is imported for type checkers only.
            continue
    return {name: hint for name, hint in found.items() if not isinstance(hint, typing.TypeVar)}


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
