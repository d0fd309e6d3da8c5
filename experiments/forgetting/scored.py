"""A run of a method on the embedded model and what it lost, kept on disk; for the scripts beside this one."""

from pathlib import Path
from typing import Any

import unpact_lens as ul
from unpact_lens.evaluation import Scores


def scored(kept: Path, model: Any, bench: ul.Benchmark, method: str, **given: Any) -> Scores:
    """Scores of one run, from disk if it was made.

    Args:
        kept: its directory.
        model: the model before.
        bench: what is forgotten and kept.
        method: of `ul.methods()`.
        given: settings, `seed` and `stop_at` of `ul.unlearn`.
    """
    if (kept / "result.json").is_file():
        return ul.load(kept)
    u = ul.unlearn(model, bench, method=method, progress=False, **given)
    found = ul.evaluate(u.model, bench, before=model)
    found.save(kept)
    return found
