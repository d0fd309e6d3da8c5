"""Means over questions with bootstrap intervals that draw whole subjects: facts about one are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def require_level(level: float) -> None:
    """Refuse a confidence level that is none.

    Raises:
        InputError: unless it lies between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level={level}; a confidence level lies between 0 and 1, e.g. 0.95")


def clustered_mean(
    values: Float[Tensor, " item"], clusters: Sequence[str], level: float, resamples: int, seed: int
) -> Float[Tensor, " 4"]:
    """`[mean, low, high, n]` over the defined values; percentile bootstrap that draws whole clusters.

    With a single cluster there is nothing to draw, and the interval is NaN.
    """
    defined = ~values.isnan()
    kept = [c for c, keep in zip(clusters, defined.tolist(), strict=True) if keep]
    if not kept:
        return torch.tensor([float("nan"), float("nan"), float("nan"), 0.0], dtype=torch.float64)
    return clustered_means(values[defined][:, None], kept, level, resamples, seed)[0]


def clustered_means(
    values: Float[Tensor, "item column"], clusters: Sequence[str], level: float, resamples: int, seed: int
) -> Float[Tensor, "column 4"]:
    """`clustered_mean` of many columns with the same draws; a column with undefined values goes by itself."""
    undefined = values.isnan().any(0)
    if undefined.any():
        together = clustered_means(values.nan_to_num(), clusters, level, resamples, seed)
        for column in undefined.nonzero()[:, 0].tolist():
            together[column] = clustered_mean(values[:, column], clusters, level, resamples, seed)
        return together
    member, times = _draws(clusters, resamples, seed)
    sums, counts = member @ values.double().cpu().numpy(), member.sum(1)
    low = high = np.full(values.shape[1], np.nan)
    if len(counts) > 1:
        low, high = np.quantile(times @ sums / (times @ counts)[:, None], [(1 - level) / 2, (1 + level) / 2], axis=0)
    n = np.full(values.shape[1], float(len(clusters)))
    return torch.from_numpy(np.stack([sums.sum(0) / counts.sum(), low, high, n], axis=1))


def clustered_ratios(
    parts: Float[Tensor, "item column"],
    wholes: Float[Tensor, " item"],
    clusters: Sequence[str],
    level: float,
    resamples: int,
    seed: int,
) -> Float[Tensor, "column 4"]:
    r"""`[ratio, low, high, n]` of $\sum_i \mathrm{part}_i / \sum_i \mathrm{whole}_i$, drawing whole clusters.

    The ratio of sums, not the mean of ratios: an item that lost almost nothing must not count as much as one that lost
    all. An item whose part is undefined is left out of both sums. NaN where the wholes are all zero; with a single
    cluster the interval is NaN.
    """
    undefined = parts.isnan()
    if undefined.any():
        together = clustered_ratios(parts.nan_to_num(), wholes, clusters, level, resamples, seed)
        for column in undefined.any(0).nonzero()[:, 0].tolist():
            kept = (~undefined[:, column]).nonzero()[:, 0].tolist()
            together[column] = torch.tensor([float("nan")] * 3 + [0.0], dtype=torch.float64)
            if kept:
                mine = [clusters[i] for i in kept]
                together[column] = clustered_ratios(
                    parts[kept][:, [column]], wholes[kept], mine, level, resamples, seed
                )[0]
        return together
    member, times = _draws(clusters, resamples, seed)
    over, under = member @ parts.double().cpu().numpy(), member @ wholes.double().cpu().numpy()
    low = high = np.full(parts.shape[1], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = over.sum(0) / under.sum()
        if len(under) > 1:
            drawn = times @ over / (times @ under)[:, None]
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if not under.any():
        ratio = np.full_like(ratio, np.nan)
    return torch.from_numpy(np.stack([ratio, low, high, np.full_like(ratio, len(clusters))], axis=1))


def _draws(clusters: Sequence[str], resamples: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which item is in which cluster, `[cluster, item]`, and how often each draw takes each cluster."""
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    member = np.zeros((len(names), len(clusters)))
    member[[names[c] for c in clusters], range(len(clusters))] = 1
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn]).astype(float)
    return member, times
