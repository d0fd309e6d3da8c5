"""Define what a caller sees at each check of a run, and may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from unpact_lens.models.hooked import HookedModel

STOPPED = "stopped by on_check"
"""Reason of a run that `on_check` stopped."""


@dataclass(frozen=True)
class Check:
    """Hold what is known at one check of a run.

    Attributes:
        step: Number of finished optimiser steps; 0 is before the first one.
        steps: Number of steps of the whole run.
        model: Model in training. Score it as you like, but do not change it.
        forgotten: F so far, the share of the forget facts known to the original model that the model does not know.
            None if there is no forget score.
        retain_score: Share of the retain facts still known. None if it is not scored.
        losses: The step's `loss` (weighted sum), `forget` and `retain` (terms, unweighted), `grad_norm` and `lr`, and
            what the method adds. Empty before the first step.
    """

    step: int
    steps: int
    model: HookedModel = field(repr=False)
    forgotten: float | None
    retain_score: float | None
    losses: Mapping[str, float]

    def numbers(self) -> dict[str, float]:
        """Return every number of the check by name, without those that are not known."""
        scores = {"F": self.forgotten, "retain_score": self.retain_score}
        return {**self.losses, **{name: value for name, value in scores.items() if value is not None}}


OnCheck = Callable[[Check], object]
"""Function that is called at each check. If it returns True, the run ends."""

NO_LOSSES = ("step", "forget_score", "retain_score")
"""Columns of a history that are no losses."""


def told(on_check: OnCheck, model: HookedModel, row: Mapping[str, float | int], steps: int) -> str | None:
    """Call a function with one check.

    Args:
        on_check: Function of the caller.
        model: Model in training.
        row: Row of the history, with the scores of this check.
        steps: Number of steps of the run.

    Returns:
        The reason to stop if the function returned True, else None.
    """
    known = row.get("forget_score")
    answer = on_check(
        Check(
            step=int(row["step"]),
            steps=steps,
            model=model,
            forgotten=None if known is None else 1 - known,
            retain_score=row.get("retain_score"),
            losses={name: float(value) for name, value in row.items() if name not in NO_LOSSES},
        )
    )
    return STOPPED if isinstance(answer, (bool, np.bool_)) and bool(answer) else None
