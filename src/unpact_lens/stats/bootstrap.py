"""Bootstrap over clusters: facts about one subject are not independent, and neither are runs with one seed.

A resample draws whole subjects (and whole seeds) with replacement. `resample` draws them once. Each statistic is then
computed in every resample, and its interval is between two quantiles (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from unpact_lens.stats.clusters import require_subjects
from unpact_lens.stats.intervals import LEVEL, NAN, Ends

DRAWS = 2000
"""Number of resamples."""

Scheme = Literal["counts", "one by one"]


@dataclass(frozen=True)
class Resamples:
    """Hold how often each resample contains each cluster and each seed.

    Attributes:
        groups: Index of the cluster of each item, `[item]`.
        clusters: How often each resample contains each cluster, `[draw, cluster]`.
        seeds: How often each resample contains each seed, `[draw, seed]`.
    """

    groups: NDArray[np.intp]
    clusters: NDArray[np.float64]
    seeds: NDArray[np.float64]

    def means(self, values: NDArray[np.float64], defined: NDArray[np.bool_]) -> Float[Tensor, " draw"]:
        """Compute the mean over items, each item being its mean over seeds, in every resample.

        Args:
            values: One number for each seed and item, `[seed, item]`; finite everywhere.
            defined: True for the numbers that count, `[seed, item]`.

        Returns:
            The means; NaN in resamples that contain no defined number.
        """
        total, counted = self.seeds @ (values * defined), self.seeds @ defined  # [draw, item]
        weights = self.clusters[:, self.groups] * (counted > 0)  # [draw, item]
        of_items = np.divide(total, counted, out=np.zeros_like(total), where=counted > 0)  # [draw, item]
        weight = weights.sum(1)  # [draw]
        means = np.divide((weights * of_items).sum(1), weight, out=np.full(len(weight), NAN), where=weight > 0)
        return torch.from_numpy(means)


def resample(clusters: Sequence[str], draws: int, seed: int, *, seeds: int = 1, scheme: Scheme = "counts") -> Resamples:
    """Draw clusters and seeds with replacement.

    The two schemes draw from the same distribution with different random numbers. Both are kept because the intervals
    of published results were computed with them: "counts" for means over seeds and paired differences, "one by one"
    for ratios and means of many columns. One scheme for both would change these intervals in the third digit.

    Args:
        clusters: Name of the cluster (subject) of each item.
        draws: Number of resamples.
        seed: Random seed.
        seeds: Number of seeds that the values have; they are drawn with the scheme "counts".
        scheme: "counts" draws how often each cluster occurs, in alphabetical order of the clusters. "one by one" draws
            each cluster of a resample in turn, in the order of first occurrence.
    """
    generator = np.random.default_rng(seed)
    if scheme == "counts":
        names, groups = np.unique(list(clusters), return_inverse=True)
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
        times = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        return Resamples(groups, times.astype(float), of_seeds.astype(float))
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    drawn = generator.integers(len(index), size=(draws, len(index)))  # [draw, position]
    times = np.stack([np.bincount(row, minlength=len(index)) for row in drawn])  # [draw, cluster]
    return Resamples(np.array([index[c] for c in clusters]), times.astype(float), np.ones((draws, 1)))


def mean_interval(
    values: Float[Tensor, "*seeds item"],
    clusters: Sequence[str],
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Ends:
    """Compute the bootstrap interval of a mean over facts, resampling subjects and seeds.

    Args:
        values: One number for each fact, in rows if there are several seeds; NaN if undefined.
        clusters: Subject of each fact.
        level: Confidence level.
        draws: Number of resamples.
        seed: Random seed of the bootstrap.

    Returns:
        Lower and upper end; (NaN, NaN) if no number is defined.

    Raises:
        InputError: If there is not one subject for each fact.
    """
    return quantiles(resampled_means(values, clusters, draws=draws, seed=seed), level)


def resampled_means(
    values: Float[Tensor, "*seeds item"], clusters: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Float[Tensor, " draw"]:
    """Compute the mean over facts (each fact being its mean over seeds) in every resample of subjects and seeds.

    Two calls with the same clusters, number of seeds and `seed` use the same resamples. A function of several means (a
    ratio, a difference, a distance) is therefore resampled by applying it to each draw.

    Args:
        values: One number for each fact, in rows if there are several seeds; NaN if undefined.
        clusters: Subject of each fact.
        draws: Number of resamples.
        seed: Random seed of the bootstrap.

    Returns:
        One mean for each draw; NaN in draws whose subjects and seeds have no number, or if there are no facts.

    Raises:
        InputError: If there is not one subject for each fact.
    """
    require_subjects(clusters, values)
    if not len(clusters):
        return torch.full((draws,), NAN, dtype=torch.float64)
    rows = torch.atleast_2d(values).flatten(0, -2).double().numpy()  # [seed, item]
    drawn = resample(clusters, draws, seed, seeds=len(rows))
    return drawn.means(np.nan_to_num(rows), ~np.isnan(rows))


def quantiles(draws: Float[Tensor, " draw"], level: float = LEVEL) -> Ends:
    """Compute the ends of a percentile interval.

    Args:
        draws: The statistic in each resample. NaN values are excluded.
        level: Confidence level.

    Returns:
        Lower and upper end; (NaN, NaN) if all values are NaN.
    """
    defined = draws[~draws.isnan()].numpy()
    if not len(defined):
        return NAN, NAN
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def clustered_mean(
    values: Float[Tensor, " item"], clusters: Sequence[str], level: float, draws: int, seed: int
) -> Float[Tensor, " 4"]:
    """Compute `[mean, low, high, n]` over the defined values; see `clustered_means`."""
    return clustered_means(values[:, None], clusters, level, draws, seed)[0]


def clustered_means(
    values: Float[Tensor, "item column"], clusters: Sequence[str], level: float, draws: int, seed: int
) -> Float[Tensor, "column 4"]:
    """Compute `[mean, low, high, n]` of each column, with an interval that resamples whole clusters.

    Args:
        values: One number for each item and column; NaN if undefined.
        clusters: Cluster (subject) of each item.
        level: Confidence level.
        draws: Number of resamples.
        seed: Random seed of the bootstrap.

    Returns:
        One row for each column. With a single cluster there is nothing to resample, and the interval is NaN.
    """
    ones = torch.ones(len(values), dtype=torch.float64)
    return clustered_ratios(values, ones, clusters, level, draws, seed)


def clustered_ratios(
    parts: Float[Tensor, "item column"],
    wholes: Float[Tensor, " item"],
    clusters: Sequence[str],
    level: float,
    draws: int,
    seed: int,
) -> Float[Tensor, "column 4"]:
    r"""Compute `[ratio, low, high, n]` of $\sum_i \mathrm{part}_i / \sum_i \mathrm{whole}_i$ for each column.

    The ratio of sums is not the mean of ratios: an item that lost almost nothing must not count as much as an item that
    lost everything. Columns without undefined parts share the resamples.

    Args:
        parts: Numerator for each item and column. An item with an undefined part (NaN) is excluded from both sums.
        wholes: Denominator for each item.
        clusters: Cluster (subject) of each item.
        level: Confidence level.
        draws: Number of resamples.
        seed: Random seed of the bootstrap.

    Returns:
        One row for each column; NaN if the denominators are all zero. With a single cluster the interval is NaN.
    """
    require_subjects(clusters, wholes)
    undefined = parts.isnan()
    if undefined.any():
        table = clustered_ratios(parts.nan_to_num(), wholes, clusters, level, draws, seed)
        for column in undefined.any(0).nonzero()[:, 0].tolist():
            table[column] = torch.tensor([NAN, NAN, NAN, 0.0], dtype=torch.float64)
            kept = (~undefined[:, column]).nonzero()[:, 0].tolist()
            if kept:
                names = [clusters[i] for i in kept]
                table[column] = clustered_ratios(parts[kept][:, [column]], wholes[kept], names, level, draws, seed)[0]
        return table
    drawn = resample(clusters, draws, seed, scheme="one by one")
    member = np.zeros((drawn.clusters.shape[1], len(clusters)))  # [cluster, item]
    member[drawn.groups, range(len(clusters))] = 1
    over = member @ parts.double().cpu().numpy()  # [cluster, column]
    under = member @ wholes.double().cpu().numpy()  # [cluster]
    low = high = np.full(parts.shape[1], NAN)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = over.sum(0) / under.sum()
        if len(under) > 1:
            drawn_ratios = drawn.clusters @ over / (drawn.clusters @ under)[:, None]  # [draw, column]
            low, high = np.quantile(drawn_ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if not under.any():
        ratio = np.full_like(ratio, NAN)
    return torch.from_numpy(np.stack([ratio, low, high, np.full_like(ratio, len(clusters))], axis=1))
