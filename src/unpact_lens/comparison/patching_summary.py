"""Hold patching maps of many questions, averaged with intervals.

Each question counts once. Changes are in nats. A share is a sum of changes over a sum of gaps, so that a question that
lost almost nothing does not count as much as one that lost all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.patch import require_places_in_all_prompts
from unpact_lens.comparison.patching_map import PatchingMap
from unpact_lens.comparison.sample import Row, Sample, stacked, with_intervals
from unpact_lens.display import joined, largest
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class PatchingSummary(Result):
    """Hold patching maps averaged over a data set; every entry is `[value, low, high, n]`.

    Attributes:
        change: `[row, column, 4]`, mean change of the answer's mean log-probability by each patch, nats.
        share: `[row, column, 4]`, Σ change over Σ gap: the share of the gap between the models that each patch closes.
        gap: `[4]`, mean of the donor's mean log-probability minus the recipient's, nats.
        labels: Names of rows (layers) and columns (heads, weights, or the one column of a map by layer).
        what: What is patched at every position, or which weights are grafted.
        direction: `"before_into_after"` or `"after_into_before"`.
        method: `"exact"` or `"gradient"`.
        ids: Ids of the items.
        level: Confidence level of the intervals.
        adjusted_p: P-value of each entry of `change`, adjusted for all entries of that map. Empty in results of version
            0.1.
        settings: Resamples and seed of the bootstrap over subjects.
        floor: The same for the noise baseline, or None.
    """

    change: Float[Tensor, "row column 4"]
    share: Float[Tensor, "row column 4"]
    gap: Float[Tensor, " 4"]
    labels: tuple[tuple[str, ...], ...]
    what: str
    direction: str
    method: str
    ids: tuple[str, ...]
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict)
    floor: PatchingSummary | None = None
    adjusted_p: dict[str, Tensor] = field(default_factory=dict)

    figure: ClassVar[str | None] = "patching:patching_summary"

    def _brief(self) -> str:
        return joined(
            [
                self.what,
                f"{len(self.ids)} questions",
                f"{largest(self.change[..., 0], self.labels)} nats",
                f"gap {float(self.gap[0]):+.2f}",
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per patch: mean change (nats) and share of the gap, with intervals."""
        rows = list(product(*self.labels))
        frame = pd.DataFrame({"layer": [r for r, _ in rows], "place": [c for _, c in rows]})
        noise = None if self.floor is None else self.floor.change
        return with_intervals(frame, self.change, self.share, noise, self.adjusted_p.get("change"))


def patching_row(found: PatchingMap) -> Row:
    """Take the numbers of one patching map.

    Raises:
        InputError: If the map goes by position, which prompts of other lengths do not share.
    """
    require_places_in_all_prompts(found.what)
    gap = torch.tensor(found.donor - found.baseline, dtype=torch.float64)
    about = {name: getattr(found, name) for name in ("labels", "what", "direction", "method")}
    return Row({"change": found.values.double(), "gap": gap}, about)


def summary_of_patches(rows: Sequence[Row], sample: Sample) -> PatchingSummary:
    """Average the rows of one pair of models."""
    numbers, about = stacked(rows)
    return PatchingSummary(
        change=sample.means(numbers["change"]),
        share=sample.ratios(numbers["change"], numbers["gap"]),
        gap=sample.means(numbers["gap"]),
        ids=sample.ids,
        level=sample.level,
        settings=sample.settings,
        adjusted_p={"change": sample.adjusted_p(numbers["change"])},
        **about,
    )
