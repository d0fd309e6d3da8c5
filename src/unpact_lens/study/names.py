"""Find every unknown name of a configuration: methods, hyperparameters, benchmarks, options, templates and probes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping

from typing_extensions import TypeVarTuple, Unpack

from unpact_lens.data.benchmark import BENCHMARKS
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError, nearest
from unpact_lens.recovery.probes.registry import PROBES
from unpact_lens.study.given_checkpoint import checkpoint_refusal
from unpact_lens.unlearning.registry import find
from unpact_lens.unlearning.settings import split

Ts = TypeVarTuple("Ts")

Named = tuple[tuple[str | int, ...], str]
"""Path of an entry, and what is wrong with it."""


def unknown_names(content: Mapping[str, object]) -> list[Named]:
    """Return the path and a message for each name that the registries of the package do not know.

    Entries of a wrong type are left to the check of types.

    Args:
        content: Entries of a configuration.
    """
    return [*_methods(content.get("methods")), *_benchmark(content), *_recovery(content.get("recovery"))]


def _refusal(call: Callable[[Unpack[Ts]], object], *arguments: Unpack[Ts]) -> str | None:
    """Return the message of the `InputError` that a call raises, or None."""
    try:
        call(*arguments)
    except InputError as error:
        return str(error)
    return None


def _methods(entries: object) -> Iterator[Named]:
    if not isinstance(entries, (list, tuple)):
        return
    for i, entry in enumerate(entries):
        method = {"name": entry} if isinstance(entry, str) else entry
        method = method if isinstance(method, Mapping) else getattr(method, "__dict__", {})
        checkpoint = method.get("checkpoint")
        if isinstance(checkpoint, str):
            if reason := checkpoint_refusal(checkpoint):
                yield ("methods", i, "checkpoint"), reason
            continue
        name, settings = method.get("name"), method.get("settings") or {}
        if not isinstance(name, str) or not isinstance(settings, Mapping):
            continue
        refused = _refusal(find, name)
        if refused:
            yield ("methods", i, "name"), refused
            continue
        chosen = find(name)
        found = [
            (("methods", i, "settings", str(key)), f"{name}: {refused}")
            for key, value in settings.items()
            if (refused := _refusal(split, {key: value}, chosen.defaults, chosen.options))
        ]
        yield from found
        together = None if found else _refusal(split, settings, chosen.defaults, chosen.options)
        if together:
            yield ("methods", i, "settings"), f"{name}: {together}"


def _benchmark(content: Mapping[str, object]) -> Iterator[Named]:
    name, options = content.get("benchmark"), content.get("benchmark_options") or {}
    if not isinstance(name, str):
        return
    refused = _refusal(BENCHMARKS.__getitem__, name)
    if refused:
        yield ("benchmark",), refused
    elif isinstance(options, Mapping):
        accepted = {*inspect.signature(BENCHMARKS[name]).parameters, "retain_split", "split_seed"}
        for option in options:
            if option not in accepted:
                text = f"benchmark {name!r} has no option {option!r}; {nearest(str(option), accepted)}"
                yield ("benchmark_options", str(option)), text


def _recovery(asked: object) -> Iterator[Named]:
    if not isinstance(asked, Mapping):
        return
    headline = asked.get("headline")
    if isinstance(headline, str) and (refused := _refusal(EMPHASIS.__getitem__, headline)):
        yield ("recovery", "headline"), refused
    for entry, known in (("templates", EMPHASIS), ("probes", PROBES), ("added", PROBES)):
        names = asked.get(entry)
        for i, name in enumerate(names if isinstance(names, (list, tuple)) else ()):
            if isinstance(name, str) and (refused := _refusal(known.__getitem__, name)):
                yield ("recovery", entry, i), refused
