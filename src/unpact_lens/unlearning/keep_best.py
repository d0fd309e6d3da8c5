"""Keep the weights of the best check of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter

Criterion = tuple[bool, bool, float]
"""How good a check is: above the retain floor, at the forget level, harmonic mean of F and the retain score."""


def criterion(row: Mapping[str, float | int], level: float | None, floor: float | None) -> Criterion:
    """Compute how good a check is; a larger one is better.

    Args:
        row: `forget_score` and `retain_score` of the check, shares still known.
        level: Largest forget score asked for, or None.
        floor: Floor of the retain score, or None.
    """
    forget, retain = float(row["forget_score"]), float(row["retain_score"])
    forgotten = 1 - forget
    mean = 2 * forgotten * retain / (forgotten + retain) if forgotten > 0 and retain > 0 else 0.0
    return floor is None or retain >= floor, level is None or forget <= level, mean


@dataclass
class KeepBest:
    """Keep a copy of the trained weights at the best check so far, the earliest of equally good ones.

    Attributes:
        level: Largest forget score asked for, or None.
        floor: Floor of the retain score, or None.
        step: Step of the best check; None before the first.
        criterion: How good it is.
        weights: Trained weights then, by name.
    """

    level: float | None = None
    floor: float | None = None
    step: int | None = None
    criterion: Criterion = (False, False, 0.0)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def see(self, row: Mapping[str, float | int], params: Mapping[str, Parameter]) -> None:
        """Copy the weights if this check is better than those before."""
        found = criterion(row, self.level, self.floor)
        if self.step is None or found > self.criterion:
            self.step, self.criterion = int(row["step"]), found
            self.weights = {name: p.detach().clone() for name, p in params.items()}

    def put_back(self, params: Mapping[str, Parameter]) -> None:
        """Give the trained weights the values of the best check."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                params[name].copy_(weight)

    def note(self) -> dict[str, float] | None:
        """Return step and criterion for the record of a saved state."""
        if self.step is None:
            return None
        floor, level, mean = self.criterion
        return {"step": self.step, "floor": floor, "level": level, "mean": mean}

    def resume(self, note: Mapping[str, float] | None, tensors: Mapping[str, Tensor]) -> None:
        """Take step, criterion and weights from a saved state.

        Args:
            note: As `note` returned it.
            tensors: Saved weights by name.
        """
        if note is None:
            return
        self.step = int(note["step"])
        self.criterion = bool(note["floor"]), bool(note["level"]), float(note["mean"])
        self.weights = dict(tensors)
