"""Hold key paths of many questions, averaged with intervals.

A share is a sum of changes over a sum of losses, so that a question that lost almost nothing does not count as much as
one that lost all.
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

from unpact_lens.comparison.key_path import KeyPath
from unpact_lens.comparison.sample import Row, Sample, stacked, with_intervals
from unpact_lens.display import estimate, joined
from unpact_lens.results import Result

WAYS = ("key tokens", "other tokens", "all tokens")
"""Positions through which the answer may come back, as in `KeyPath.to_frame`."""


@dataclass(frozen=True, eq=False)
class KeyPathSummary(Result):
    """Hold key paths averaged over a data set; every entry is `[value, low, high, n]`.

    Attributes:
        change: `[way, 4]`, nats: change of the answer's mean log-probability when all heads read the KeyTokens, as many
            other prompt tokens, or all positions as in the original model; ways as `WAYS`.
        share: `[way, 4]`, Σ change over Σ loss.
        by_head: `[layer, head, 4]`, nats: change when one head alone reads the KeyTokens as in the original model.
        loss: `[4]`, mean loss of the answer's mean log-probability, nats.
        labels: Names of layers and heads.
        restore: `"moved"` or `"pattern"`.
        ids: Ids of the items.
        level: Confidence level of the intervals.
        adjusted_p: P-value of each entry of `change` and `by_head`, adjusted for all entries of that map. Empty in
            results of version 0.1.
        settings: Draws, and resamples and seed of the bootstrap over subjects.
        floor: The same for the noise baseline with the same KeyTokens, or None.
    """

    change: Float[Tensor, "way 4"]
    share: Float[Tensor, "way 4"]
    by_head: Float[Tensor, "layer head 4"]
    loss: Float[Tensor, " 4"]
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    restore: str
    ids: tuple[str, ...]
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict)
    floor: KeyPathSummary | None = None
    adjusted_p: dict[str, Tensor] = field(default_factory=dict)

    figure: ClassVar[str | None] = "key_path:key_path_summary"

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.ids)} questions",
                f"share by KeyTokens {estimate(self.share[0])}",
                f"by others {estimate(self.share[1])}",
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per way: mean change (nats) and share of the loss, with intervals."""
        noise = None if self.floor is None else self.floor.change
        frame = pd.DataFrame({"path": WAYS})
        return with_intervals(frame, self.change, self.share, noise, self.adjusted_p.get("change"))

    def heads_frame(self) -> pd.DataFrame:
        """Make a table with one row per head: change by its reading of the KeyTokens alone, nats, with intervals."""
        frame = pd.DataFrame({"head": [l + h for l, h in product(*self.labels)]})
        for end, column in zip(("", "_low", "_high"), self.by_head.flatten(0, 1).T, strict=False):
            frame[f"change{end}"] = column.tolist()
        if "by_head" in self.adjusted_p:
            frame["change_p"] = self.adjusted_p["by_head"].flatten().tolist()
        if self.floor is not None:
            frame["change_floor"] = self.floor.by_head[..., 0].flatten().tolist()
        return frame


def key_path_row(path: KeyPath) -> Row:
    """Take the numbers of one key path."""
    ways = [path.log_prob_key, float(path.log_prob_rest.mean()), path.log_prob_all]
    numbers = {
        "change": torch.tensor(ways, dtype=torch.float64) - path.log_prob_after,
        "loss": torch.tensor(path.log_prob_before, dtype=torch.float64) - path.log_prob_after,
        "by_head": path.values.double(),
        "draws": torch.tensor(path.settings.get("draws", 0)),
    }
    return Row(numbers, {"labels": path.labels, "restore": path.restore})


def summary_of_key_paths(rows: Sequence[Row], sample: Sample) -> KeyPathSummary:
    """Average the rows of one pair of models."""
    numbers, about = stacked(rows)
    return KeyPathSummary(
        change=sample.means(numbers["change"]),
        share=sample.ratios(numbers["change"], numbers["loss"]),
        by_head=sample.means(numbers["by_head"]),
        loss=sample.means(numbers["loss"]),
        ids=sample.ids,
        level=sample.level,
        settings={"draws": int(numbers["draws"].max()), **sample.settings},
        adjusted_p={name: sample.adjusted_p(numbers[name]) for name in ("change", "by_head")},
        **about,
    )
