"""Score a run of a method on the embedded model, and keep the scores on disk."""

from pathlib import Path
from typing import Any

import unpact_lens as ul
from unpact_lens.evaluation import Scores
from unpact_lens.models.hooked import HookedModel


def scored(kept: Path, model: HookedModel, bench: ul.Benchmark, method: str, **given: Any) -> Scores:
    """Unlearn and score, or load the scores of a finished run with the same split of the retain facts.

    Args:
        kept: Directory of the scores.
        model: Original model.
        bench: Benchmark with the forget and the retain facts.
        method: Name in `ul.methods()`.
        **given: Hyperparameters, `seed` and `stop_at` of `ul.unlearn`.
    """
    if (kept / "result.json").is_file():
        found: Scores = ul.load(kept)
        if found.parts and found.settings.get("retain_split") == bench.retain_split:
            return found
    u = ul.unlearn(model, bench, method=method, progress=False, **given)
    found = ul.evaluate(u.model, bench, before=model)
    found.save(kept)
    return found
