"""Hold what patching activations or grafting weights of one model into the other does to the answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.noise_columns import beside_floor
from unpact_lens.display import joined, largest
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class PatchingMap(Result):
    """Hold the answer's log-probability with each patch of the other model's activations or weights.

    Attributes:
        log_prob: `[row, column]`, mean log-probability of the answer with the patch at that place, nats.
        labels: Names of rows (layers) and columns (positions, heads, weights, or the one column of a map by layer).
        baseline: Mean log-probability of the recipient unpatched, nats.
        donor: Mean log-probability of the model that gives the activations or weights, nats.
        what: What is patched: `"resid_pre"`, `"attn_out"`, `"mlp_out"`, `"head"`, ..., or `"weights by matrix"`.
        direction: `"before_into_after"` or `"after_into_before"`.
        prompt: Prompt, as text.
        answer: Answer, as text.
        tokens: The S input tokens.
        method: `"exact"` (one forward pass per patch) or `"gradient"` (attribution patching).
        error: Exact values minus those of the gradient method, nats, if it was asked to check itself; else None.
        floor: The same for the noise baseline, or None.
        id: Id of the `QA`, or empty.
        subject: Subject of the `QA`, or empty; averages draw whole subjects.
    """

    log_prob: Float[Tensor, "row column"]
    labels: tuple[tuple[str, ...], ...]
    baseline: float
    donor: float
    what: str
    direction: str
    prompt: str
    answer: str
    tokens: tuple[str, ...]
    method: str = "exact"
    error: Float[Tensor, "row column"] | None = None
    floor: PatchingMap | None = None
    id: str = ""
    subject: str = ""

    figure: ClassVar[str | None] = "patching:patching_map"

    def _brief(self) -> str:
        return joined(
            [
                self.what,
                f"{len(self.labels[0])} × {len(self.labels[1])}",
                f"{largest(self.values, self.labels)} nats",
                f"gap {self.donor - self.baseline:+.2f}",
            ]
        )

    @property
    def values(self) -> Float[Tensor, "row column"]:
        """Change of the mean log-probability by each patch, nats."""
        return self.log_prob - self.baseline

    @property
    def restored(self) -> Float[Tensor, "row column"]:
        """Share of the gap between the two models that each patch closes: 0 none, 1 all; NaN if there is no gap."""
        gap = self.donor - self.baseline
        return self.values / gap if gap else torch.full_like(self.log_prob, float("nan"))

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per patch; the noise baseline follows the change, nats."""
        rows = list(product(*self.labels))
        frame = pd.DataFrame(
            {
                "layer": [r for r, _ in rows],
                "place": [c for _, c in rows],
                "log_prob": self.log_prob.flatten().tolist(),
                "change": self.values.flatten().tolist(),
                "restored": self.restored.flatten().tolist(),
            }
        )
        return beside_floor(frame, self.floor, ("change",))
