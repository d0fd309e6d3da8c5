"""Hold the numbers of each question of an average, and how the intervals over them are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution import Attribution
from unpact_lens.errors import InputError
from unpact_lens.stats.bootstrap import clustered_means, clustered_ratios
from unpact_lens.stats.sign_flip import max_sign_flip_p


@dataclass(frozen=True)
class Sample:
    """Hold which questions were averaged, and the options of the bootstrap over their subjects.

    Attributes:
        ids: Id of each question.
        subjects: Subject of each question; the bootstrap draws whole subjects.
        level: Confidence level of the intervals.
        resamples: Number of bootstrap resamples.
        seed: Random seed of the bootstrap.
    """

    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    level: float
    resamples: int
    seed: int

    @classmethod
    def of(cls, names: Iterable[tuple[str, str]], level: float, resamples: int, seed: int) -> Sample:
        """Name each question by its id and subject; a question that lacks one is named by its place.

        Args:
            names: Id and subject of each question; empty strings where unknown.
            level: Confidence level of the intervals.
            resamples: Number of bootstrap resamples.
            seed: Random seed of the bootstrap.
        """
        known = list(names)
        ids = tuple(i or str(k) for k, (i, _) in enumerate(known))
        subjects = tuple(s or i or f"item {k}" for k, (i, s) in enumerate(known))
        return cls(ids, subjects, level, resamples, seed)

    @property
    def settings(self) -> dict[str, Any]:
        """Options of the bootstrap, as results record them."""
        return {"resamples": self.resamples, "seed": self.seed}

    def means(self, values: Float[Tensor, "item ..."]) -> Float[Tensor, "... 4"]:
        """Compute `[mean, low, high, n]` over the questions for each entry, with the same draws for all."""
        flat = values.reshape(len(values), -1)  # [item, column]
        table = clustered_means(flat, self.subjects, self.level, self.resamples, self.seed)
        return table.reshape(*values.shape[1:], 4)

    def adjusted_p(self, values: Float[Tensor, "item ..."]) -> Float[Tensor, ...]:
        """Compute the p-value that the mean of each entry is 0, adjusted for all entries of the map.

        Of many heads, some intervals exclude 0 by chance. The sign-flip test over subjects adjusts by the largest
        statistic over the map; see `max_sign_flip_p`. Undefined values count as 0.
        """
        flat = values.reshape(len(values), -1).nan_to_num().double().cpu().numpy()  # [item, column]
        groups = np.unique(self.subjects, return_inverse=True)[1]
        sums = np.zeros((groups.max() + 1, flat.shape[1]))  # [subject, column]
        np.add.at(sums, groups, flat)
        return torch.from_numpy(max_sign_flip_p(sums, self.seed)).reshape(values.shape[1:])

    def ratios(self, parts: Float[Tensor, "item ..."], wholes: Float[Tensor, " item"]) -> Float[Tensor, "... 4"]:
        """Compute `[Σ part / Σ whole, low, high, n]` for each entry."""
        flat = parts.reshape(len(parts), -1)  # [item, column]
        table = clustered_ratios(flat, wholes, self.subjects, self.level, self.resamples, self.seed)
        return table.reshape(*parts.shape[1:], 4)


@dataclass(frozen=True)
class Row:
    """Hold the numbers that an average keeps of one result.

    Attributes:
        numbers: Numbers that are averaged, by name.
        about: Labels and options that all results of an average must share.
        contributions: Attributions under the original and the unlearned model, or None.
    """

    numbers: dict[str, Tensor]
    about: dict[str, Any]
    contributions: tuple[Attribution, Attribution] | None = None


def stacked(rows: Sequence[Row]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Stack the numbers of all rows, `[item, ...]` each, and return what the rows share.

    Raises:
        InputError: If a row has other numbers, labels or options than the first.
    """
    first = rows[0]
    for k, row in enumerate(rows):
        if row.numbers.keys() != first.numbers.keys() or row.about.keys() != first.about.keys():
            raise InputError(f"result {k} was not made with the same parts as the first; use the same options for all")
        for name, value in row.about.items():
            if value != first.about[name]:
                raise InputError(
                    f"result {k} has other {name} than the first ({_short(value)} and {_short(first.about[name])}); "
                    "average like with like"
                )
    return {name: torch.stack([row.numbers[name] for row in rows]) for name in first.numbers}, dict(first.about)


def with_intervals(
    frame: pd.DataFrame,
    change: Float[Tensor, "... 4"],
    share: Float[Tensor, "... 4"],
    floor: Float[Tensor, "... 4"] | None,
    adjusted_p: Float[Tensor, ...] | None = None,
) -> pd.DataFrame:
    """Add columns of a change (nats) and a share with their ends, its adjusted p-value, and the noise baseline."""
    for name, values in (("change", change), ("share", share)):
        for end, column in zip(("", "_low", "_high"), values.reshape(-1, 4).T, strict=False):
            frame[name + end] = column.tolist()
        if name == "change" and adjusted_p is not None:
            frame["change_p"] = adjusted_p.flatten().tolist()
        if name == "change" and floor is not None:
            frame["change_floor"] = floor[..., 0].flatten().tolist()
    return frame


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
