"""Hold decompositions: the parts of the answer's logit, their names, and their sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.display import joined, largest, quoted
from unpact_lens.results import Result

AXES: Mapping[str, tuple[str, ...]] = {
    "component": ("component",),
    "head": ("layer", "head"),
    "source": ("layer", "head", "source"),
    "neuron": ("layer", "neuron"),
}
"""Axes of `values` in each view, before the last axis, which is the answer token."""


@dataclass(frozen=True, eq=False)
class Decomposition(Result):
    """Hold the logit of each answer token, split into what each part of the model adds to it.

    For every view, `values` summed over all axes but the last, plus `remainder` summed over its first, is `total`.

    Attributes:
        values: Logits. `[C, T]` by component, `[layer, head, T]` by head, `[layer, head, S, T]` by source token,
            `[layer, d_mlp, T]` by neuron; T answer tokens, S input positions up to the last answer token's predecessor.
        labels: Names along each axis of `values`.
        remainder: `[R, T]`, logits: everything that this view does not resolve.
        remainder_labels: Names of the rows of `remainder`.
        total: `[T]`, the model's logit (before a final soft-cap) or logit difference, as the model computes it.
        by: View: `"component"`, `"head"`, `"source"` or `"neuron"`.
        tokens: The S input tokens: BOS if present, prompt, answer without its last token.
        answer_tokens: The T answer tokens, one for each column of `values`.
        prompt: Text of the prompt.
        answer: Text of the answer.
        versus: Text of the foil that is subtracted, or None.
        notes: Notes for the reader, e.g. that a soft-cap was excluded.
        settings: Other settings as used.
    """

    values: Float[Tensor, "*axes answer"]
    labels: tuple[tuple[str, ...], ...]
    remainder: Float[Tensor, "rest answer"]
    remainder_labels: tuple[str, ...]
    total: Float[Tensor, " answer"]
    by: str
    tokens: tuple[str, ...]
    answer_tokens: tuple[str, ...]
    prompt: str
    answer: str
    versus: str | None = None
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    figure: ClassVar[str | None] = "decomposition:decomposition"

    def _brief(self) -> str:
        return joined(
            [
                f"by {self.by}",
                quoted(self.answer, 20),
                f"logit {float(self.total.mean()):.2f}",
                largest(self.values.mean(-1), self.labels[:-1]),
            ]
        )

    @property
    def residual(self) -> Float[Tensor, " answer"]:
        """`total` minus all parts, logits: rounding error only."""
        return self.total - self.remainder.sum(0) - self.values.flatten(0, -2).sum(0)

    def __getitem__(self, label: str) -> Float[Tensor, " answer"]:
        """Return the values of one part by its name, e.g. `d["L1.mlp"]` or `d["L0H3"]`.

        Raises:
            KeyError: If there is no such part in this view.
        """
        if label in self.remainder_labels:
            return self.remainder[self.remainder_labels.index(label)]
        rows = {_joined(names): i for i, names in enumerate(product(*self.labels[:-1]))}
        if label not in rows:
            raise KeyError(f"no part {label!r} by {self.by}; there are {', '.join(list(rows)[:4])}, ...")
        return self.values.flatten(0, -2)[rows[label]]

    def mean(self) -> Decomposition:
        """Average over the answer tokens, into one column named `"mean"`."""
        return replace(
            self,
            values=self.values.mean(-1, keepdim=True),
            remainder=self.remainder.mean(-1, keepdim=True),
            total=self.total.mean(-1, keepdim=True),
            labels=(*self.labels[:-1], ("mean",)),
            answer_tokens=("mean",),
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table, logits: one row for each part, the remainder last, and one column for each answer token."""
        axes = AXES[self.by]
        rows = list(product(*self.labels[:-1]))
        rest = [(name, *[""] * (len(axes) - 1)) for name in self.remainder_labels]
        columns = [f"{token}_{i}" for i, token in enumerate(self.answer_tokens)]
        table = torch.cat([self.values.flatten(0, -2), self.remainder]).cpu().double().numpy()  # [part, answer]
        frame = pd.DataFrame(table, columns=columns)
        frame["mean"] = table.mean(1)
        for i, axis in enumerate(axes):
            frame.insert(i, axis, [row[i] for row in [*rows, *rest]])
        return frame


def _joined(names: tuple[str, ...]) -> str:
    """Join names of a part: `("L0", "H1")` becomes `"L0H1"`; a source token's position follows after a colon."""
    return names[0] if len(names) == 1 else "".join(names[:2]) + "".join(f":{n}" for n in names[2:])


@dataclass(frozen=True, eq=False)
class LensCurves(Result):
    """Hold the answer's logit, probability and rank when it is read after each layer.

    Attributes:
        logit: `[layer, T]`, logits (before a final soft-cap): `ln_final` and unembedding applied to the residual
            stream after each layer; row 0 is the embedding, the last row the model's own output.
        log_prob: `[layer, T]`, nats, after a final soft-cap.
        rank: `[layer, T]`, number of more likely tokens; 0 is the most likely.
        labels: Names of rows and columns.
        tokens: The S input tokens.
        answer_tokens: The T answer tokens.
        prompt: Text of the prompt.
        answer: Text of the answer.
        lens: `"logit"` or `"tuned"`.
        notes: Notes for the reader.
        settings: Other settings as used.
    """

    logit: Float[Tensor, "layer answer"]
    log_prob: Float[Tensor, "layer answer"]
    rank: Int[Tensor, "layer answer"]
    labels: tuple[tuple[str, ...], ...]
    tokens: tuple[str, ...]
    answer_tokens: tuple[str, ...]
    prompt: str
    answer: str
    lens: str = "logit"
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    figure: ClassVar[str | None] = "decomposition:lens_curves"

    def _brief(self) -> str:
        return joined(
            [
                quoted(self.answer, 20),
                f"{self.lens} lens, {len(self.labels[0])} layers",
                f"probability {float(self.probability[-1].mean()):.2f}",
                f"rank {int(self.rank[-1].max())}",
            ]
        )

    @property
    def probability(self) -> Float[Tensor, "layer answer"]:
        """Probability of each answer token after each layer."""
        return self.log_prob.exp()

    @property
    def values(self) -> Float[Tensor, "layer answer"]:
        """`logit`, under the name that it has in every decomposition."""
        return self.logit

    @property
    def total(self) -> Float[Tensor, " answer"]:
        """The model's own logit: the last row."""
        return self.logit[-1]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each layer and answer token."""
        rows = list(product(self.labels[0], enumerate(self.answer_tokens)))
        return pd.DataFrame(
            {
                "layer": [layer for layer, _ in rows],
                "answer_token": [token for _, (_, token) in rows],
                "position": [i for _, (i, _) in rows],
                "logit": self.logit.flatten().tolist(),
                "probability": self.probability.flatten().tolist(),
                "rank": self.rank.flatten().tolist(),
            }
        )
