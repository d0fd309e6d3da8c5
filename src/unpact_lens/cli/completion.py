"""Complete names on the command line.

The names come from the registries, whose import takes seconds. They are therefore kept in the user's cache directory,
and read again when the package changes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

KINDS = ("model", "benchmark", "method", "metric", "attribution", "probe", "study")
"""Kinds of names."""


def completer(kind: str) -> Callable[[str], list[str]]:
    """Return a function that completes the beginning of a name.

    Args:
        kind: One of `KINDS`.
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names(kind) if name.startswith(incomplete)]

    return complete


def names(kind: str) -> list[str]:
    """Return the registered names of a kind, from the cache if it is of this package's state."""
    import platformdirs

    file = Path(platformdirs.user_cache_dir("unpact-lens")) / "names.json"
    state = _state()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["state"] == state:
            return [str(name) for name in held[kind]]
    found = {kind: registered(kind) for kind in KINDS}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"state": state, **found}), encoding="utf-8")
    return found[kind]


def registered(kind: str) -> list[str]:
    """Return the registered names of a kind."""
    import unpact_lens as ul

    if kind == "model":
        from unpact_lens.models.load import NAMES

        return list(NAMES)
    if kind == "benchmark":
        from unpact_lens.data.benchmark import BENCHMARKS

        return list(BENCHMARKS)
    if kind == "method":
        return list(ul.unlearning.METHODS)
    if kind == "metric":
        from unpact_lens.evaluation.metrics import METRICS

        return list(METRICS)
    if kind == "attribution":
        from unpact_lens.attribution.methods import METHODS

        return list(METHODS)
    if kind == "probe":
        return [*ul.recovery.PROBES, "all"]
    from unpact_lens.study.config import SHIPPED

    return list(SHIPPED)


def _state() -> str:
    """Return what changes when the package does: its version and the time of its newest file."""
    import unpact_lens

    root = Path(unpact_lens.__file__).parent
    return f"{unpact_lens.__version__} {max(p.stat().st_mtime_ns for p in root.rglob('*.py'))}"
