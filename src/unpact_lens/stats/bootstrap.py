"""Bootstrap over subjects and seeds: facts of one subject are not independent, and neither are runs of one seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError

LEVEL = 0.95
"""Confidence level of every interval unless another is asked for."""

DRAWS = 2000
"""Resamples of a bootstrap."""

NAN = float("nan")


def mean_interval(
    values: Float[Tensor, "*seeds item"],
    clusters: Sequence[str],
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a mean, by a bootstrap that resamples subjects and seeds; (NaN, NaN) of nothing.

    Args:
        values: one number a fact; several seeds stand in rows, and NaN where a number is undefined.
        clusters: the subject of each fact.
        level: confidence level.
        draws: resamples.
        seed: of the resampling.
    """
    means = resampled_means(values, clusters, draws=draws, seed=seed)
    return quantiles(means, level)


def resampled_means(
    values: Float[Tensor, "*seeds item"], clusters: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Float[Tensor, " draw"]:
    """The mean over facts (each its mean over seeds) in every resample of subjects and seeds.

    Two calls with the same clusters, number of seeds and `seed` draw the same, so that any function of several means
    (a ratio, a difference, a distance) has its resamples by applying it draw by draw.

    Args:
        values: one number a fact; several seeds stand in rows, and NaN where a number is undefined.
        clusters: the subject of each fact.
        draws: resamples.
        seed: of the resampling.

    Returns:
        One mean a draw; NaN in draws of subjects and seeds that have no number, and where there are none at all.

    Raises:
        InputError: if there is not one subject a fact.
    """
    if len(clusters) != values.shape[-1]:
        raise InputError(f"{len(clusters)} subjects for {values.shape[-1]} facts; give one subject a fact")
    if not len(clusters):
        return torch.full((draws,), NAN, dtype=torch.float64)
    rows = torch.atleast_2d(values).flatten(0, -2).double().numpy()
    _, groups = np.unique(list(clusters), return_inverse=True)
    return torch.from_numpy(_resampled(np.nan_to_num(rows), ~np.isnan(rows), groups, draws, seed))


def quantiles(draws: Float[Tensor, " draw"], level: float = LEVEL) -> tuple[float, float]:
    """The ends of a percentile interval; draws that are NaN do not count, (NaN, NaN) where all are."""
    defined = draws[~draws.isnan()].numpy()
    if not len(defined):
        return NAN, NAN
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def cluster_bootstrap(
    values: np.ndarray, mask: np.ndarray, groups: np.ndarray, level: float, draws: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the mean over items (each its mean over seeds), resampling clusters and seeds."""
    return quantiles(torch.from_numpy(_resampled(values, mask, groups, draws, seed)), level)


def _resampled(values: np.ndarray, mask: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The mean in every resample; NaN where no item that counts was drawn."""
    generator = np.random.default_rng(seed)
    n_seeds, n_groups = values.shape[0], int(groups.max()) + 1
    seed_weights = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws)
    group_weights = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws)
    weighted, counted = seed_weights @ (values * mask), seed_weights @ mask
    item_weights = group_weights[:, groups] * (counted > 0)
    item_means = np.divide(weighted, counted, out=np.zeros_like(weighted, dtype=float), where=counted > 0)
    totals = item_weights.sum(1)
    return np.divide((item_weights * item_means).sum(1), totals, out=np.full(draws, NAN), where=totals > 0)
