"""Hold decompositions of many questions, averaged with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.sample import Row, Sample, stacked
from unpact_lens.decomposition.result import AXES, Decomposition
from unpact_lens.display import estimate, joined
from unpact_lens.errors import InputError
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class DecompositionSummary(Result):
    """Hold the parts of the answer's logit, averaged over a data set; every entry is `[mean, low, high, n]`.

    Each item counts once: its answer tokens are averaged first. The means of `values` and `remainder` sum to that of
    `total`.

    Attributes:
        values: `[*axes, 4]`, logits: `[component, 4]`, `[layer, head, 4]` or `[layer, neuron, 4]`.
        remainder: `[rest, 4]`, logits: the parts that this view does not resolve.
        total: `[4]`, logit of the answer, or logit difference.
        labels: Names along each axis of `values`.
        remainder_labels: Names of the rows of `remainder`.
        by: View: `"component"`, `"head"` or `"neuron"`.
        ids: Ids of the items.
        level: Confidence level of the intervals.
        adjusted_p: P-value of each entry of `values`, adjusted for all entries of that map. Empty in results of version
            0.1.
        settings: Resamples and seed of the bootstrap over subjects.
    """

    values: Float[Tensor, "*axes 4"]
    remainder: Float[Tensor, "rest 4"]
    total: Float[Tensor, " 4"]
    labels: tuple[tuple[str, ...], ...]
    remainder_labels: tuple[str, ...]
    by: str
    ids: tuple[str, ...]
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict)
    adjusted_p: dict[str, Tensor] = field(default_factory=dict)

    figure: ClassVar[str | None] = "decomposition_summary:decomposition_summary"

    def _brief(self) -> str:
        return joined([f"by {self.by}", f"{len(self.ids)} questions", f"logit {estimate(self.total)}"])

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per part, the remainder's last: mean, interval (logits), adjusted p-value."""
        axes = AXES[self.by]
        rows = [*product(*self.labels), *((name, *[""] * (len(axes) - 1)) for name in self.remainder_labels)]
        table = torch.cat([self.values.flatten(0, -2), self.remainder])  # [part, 4]
        frame = pd.DataFrame({axis: [row[i] for row in rows] for i, axis in enumerate(axes)})
        for name, column in zip(("mean", "low", "high"), table.T, strict=False):
            frame[name] = column.tolist()
        if "values" in self.adjusted_p:
            frame["p"] = [*self.adjusted_p["values"].flatten().tolist(), *[float("nan")] * len(self.remainder)]
        return frame


def decomposition_row(found: Decomposition) -> Row:
    """Take the numbers of one decomposition, averaged over the answer tokens.

    Raises:
        InputError: If the decomposition is by source token, which prompts of other lengths do not share.
    """
    if found.by == "source":
        raise InputError("by='source' goes by position, and prompts differ in length; average by 'component' or 'head'")
    numbers = {"values": found.values.mean(-1), "remainder": found.remainder.mean(-1), "total": found.total.mean()}
    about = {"labels": found.labels[:-1], "remainder_labels": found.remainder_labels, "by": found.by}
    return Row({name: value.double() for name, value in numbers.items()}, about)


def summary_of_decompositions(rows: Sequence[Row], sample: Sample) -> DecompositionSummary:
    """Average the rows."""
    numbers, about = stacked(rows)
    return DecompositionSummary(
        values=sample.means(numbers["values"]),
        remainder=sample.means(numbers["remainder"]),
        total=sample.means(numbers["total"]),
        ids=sample.ids,
        level=sample.level,
        settings=sample.settings,
        adjusted_p={"values": sample.adjusted_p(numbers["values"])},
        **about,
    )
