"""Estimate how much less information facts carry because they share subjects and seeds.

Facts about one subject are alike, so n facts count as fewer: n divided by the design effect 1 + (m − 1)ρ. Here m is
the number of facts of a subject and ρ the intraclass correlation (ICC).

ρ is estimated by a beta-binomial model of the events of each subject, with Jeffreys' prior on the rate and a uniform
prior on ρ. The upper quartile of its posterior is used: a point estimate such as the ANOVA estimator is 0 in the very
samples whose interval is too narrow, and undefined without events. The simulations in `docs/reference/stats.md` measure
the coverage that results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.stats.intervals import LEVEL

QUANTILE = 0.75
"""Posterior quantile of the ICC that the design effect uses."""

ROUNDING = 1e-12
"""Variance below which seeds do not differ."""

_RATES = (np.arange(40)[:, None] + 0.5) / 40  # [rate, 1]
_ICCS = (np.arange(20)[None, :] + 0.5) / 20  # [1, icc]


def intraclass_correlation(events: Sequence[float], sizes: Sequence[float], quantile: float = QUANTILE) -> float:
    r"""Compute a posterior quantile of the intraclass correlation ρ of a beta-binomial model.

    The events of a subject are binomial with a rate $q \sim \mathrm{Beta}(p s, (1-p) s)$, $s = (1-\rho)/\rho$. The
    prior is $p \sim \mathrm{Beta}(\frac12, \frac12)$, $\rho \sim U(0, 1)$. Without events, the posterior stays wide.

    Args:
        events: Number of events of each subject; fractions are allowed (means over seeds).
        sizes: Number of facts of each subject.
        quantile: Posterior quantile to return.

    Returns:
        A number between 0 and 1.

    Raises:
        InputError: If the numbers of events and sizes differ, a subject has more events than facts, or the quantile is
            not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile}; it must lie between 0 and 1, e.g. {QUANTILE}")
    if len(events) != len(sizes):
        raise InputError(f"{len(events)} numbers of events with {len(sizes)} sizes; give one of each for each subject")
    pairs = sorted((round(float(e), 6), round(float(n), 6)) for e, n in zip(events, sizes, strict=True))
    wrong = next((p for p in pairs if not 0 <= p[0] <= p[1]), None)
    if wrong is not None:
        raise InputError(f"a subject has {wrong[0]:g} events in {wrong[1]:g} facts; events must lie between 0 and that")
    return _posterior_quantile(tuple(pairs), quantile)


@lru_cache(maxsize=4096)
def _posterior_quantile(pairs: tuple[tuple[float, float], ...], quantile: float) -> float:
    spread = (1 - _ICCS) / _ICCS
    a, b = _RATES * spread, (1 - _RATES) * spread  # [rate, icc]
    base = betaln(a, b)
    log_posterior = np.broadcast_to(-0.5 * np.log(_RATES * (1 - _RATES)), a.shape).copy()
    for (events, size), times in zip(*np.unique(np.array(pairs), axis=0, return_counts=True), strict=True):
        log_posterior += times * (betaln(a + events, b + size - events) - base)
    weights = np.exp(log_posterior - log_posterior.max()).sum(0)  # [icc]
    ends = np.arange(1, _ICCS.size + 1) / _ICCS.size
    return float(np.interp(quantile, np.concatenate([[0.0], np.cumsum(weights) / weights.sum()]), [0.0, *ends]))


def design_effect(
    values: Float[Tensor, "*seeds item"] | Bool[Tensor, "*seeds item"],
    clusters: Sequence[str],
    *,
    among: Bool[Tensor, "*rows column"] | None = None,
) -> float:
    """Compute the factor by which clustering multiplies the variance of a rate; 1 if every subject has one fact.

    Args:
        values: Outcome of each fact between 0 and 1, in rows if there are several seeds.
        clusters: Subject of each fact.
        among: True for outcomes that count; if None, all. A fact counts with its mean over the seeds in which it
            counts.

    Raises:
        InputError: If the shapes or the number of subjects do not fit.
    """
    rows, mask = as_rows(values, clusters, among)
    shares, present = over_seeds(rows, mask)
    events, sizes = by_subject(shares, present, clusters)
    if not len(sizes) or sizes.max() == 1:
        return 1.0
    # Kish's size: the mean number of facts that a fact's subject has.
    return 1 + (float((sizes**2).sum() / sizes.sum()) - 1) * intraclass_correlation(events.tolist(), sizes.tolist())


def seed_variance(
    values: NDArray[np.float64], mask: NDArray[np.bool_], clusters: Sequence[str], level: float = LEVEL
) -> float:
    r"""Compute the variance of a mean that the choice of seeds adds, scaled for the small number of seeds.

    With the means $m_s$ of S seeds, $V = \max(0, \mathrm{var}(m_s) - v)/S$. Here v is the variance that the seeds'
    means would have if seeds differed by fact only (residuals after the fact's and the seed's mean, summed by subject).
    V is multiplied by $(t_{S-1}/z)^2$, because it is estimated from S numbers only. With one seed it is 0: the interval
    then says nothing about other seeds.

    Args:
        values: One number for each seed and fact, `[seed, item]`.
        mask: True for numbers that count.
        clusters: Subject of each fact.
        level: Confidence level, for the quantiles t and z.

    Returns:
        The variance.
    """
    counted = mask.any(1)
    seeds = int(counted.sum())
    if seeds < 2:
        return 0.0
    values, mask = values[counted], mask[counted]
    sizes = mask.sum(1)  # [seed]
    of_seeds = (values * mask).sum(1) / sizes  # [seed]
    facts = mask.sum(0)  # [item]
    of_facts = np.divide((values * mask).sum(0), facts, out=np.zeros(values.shape[1]), where=facts > 0)
    expected = np.divide((of_seeds[:, None] * mask).sum(0), facts, out=np.zeros(values.shape[1]), where=facts > 0)
    residuals = (values - of_seeds[:, None] - of_facts + expected) * mask  # [seed, item]
    names, groups = np.unique(list(clusters), return_inverse=True)
    member = np.zeros((values.shape[1], len(names)))  # [item, subject]
    member[range(values.shape[1]), groups] = 1
    noise = float((((residuals @ member) ** 2).sum(1) / sizes**2).sum()) / (seeds - 1)
    among_seeds = (float(np.var(of_seeds, ddof=1)) - noise) / seeds
    if among_seeds < ROUNDING:
        return 0.0
    tail = (1 + level) / 2
    return among_seeds * float(student.ppf(tail, seeds - 1) / norm.ppf(tail)) ** 2


def effective_n(n: float, design: float, seeds: float, binomial: float) -> float:
    """Compute how many independent facts n clustered facts are worth, at most n and at least 1 (or n, if less).

    Args:
        n: Number of facts.
        design: Design effect of the subjects.
        seeds: Variance that the seeds add, `seed_variance`.
        binomial: Variance of one independent fact, p(1 − p); 0 if the seeds all agree.
    """
    added = n * seeds / binomial if binomial > 0 else 0.0
    return max(n / (design + added), min(1.0, n))


def as_rows(
    values: Tensor, clusters: Sequence[str], among: Tensor | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return values and mask as `[seed, item]`, zero where they do not count.

    Raises:
        InputError: If the shapes or the number of subjects do not fit.
    """
    require_subjects(clusters, values)
    counts = torch.ones_like(values, dtype=torch.bool) if among is None else among
    if counts.shape != values.shape:
        raise InputError(f"outcomes of shape {tuple(values.shape)} but among={tuple(counts.shape)}; give equal shapes")
    rows, mask = (torch.atleast_2d(t).flatten(0, -2) for t in (values.double(), counts))
    return (rows * mask).numpy(), mask.numpy()


def over_seeds(rows: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean of each fact over the seeds in which it counts, and which facts count in any seed."""
    times = mask.sum(0)  # [item]
    return np.divide((rows * mask).sum(0), times, out=np.zeros(rows.shape[1]), where=times > 0), times > 0


def by_subject(
    shares: NDArray[np.float64], present: NDArray[np.bool_], clusters: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of the facts and their number for each subject that has any."""
    names = [c for c, kept in zip(clusters, present.tolist(), strict=True) if kept]
    if not names:
        return np.zeros(0), np.zeros(0)
    groups: NDArray[np.intp] = np.unique(names, return_inverse=True)[1]
    member = np.zeros((groups.max() + 1, len(groups)))  # [subject, item]
    member[groups, range(len(groups))] = 1
    return member @ shares[present], member.sum(1)


def require_subjects(clusters: Sequence[str], values: Tensor) -> None:
    """Check that there is one subject for each fact.

    Raises:
        InputError: If there is not.
    """
    if len(clusters) != values.shape[-1]:
        raise InputError(f"{len(clusters)} subjects for {values.shape[-1]} facts; give one subject a fact")


def spread_of(first: float, second: float, n: float) -> float:
    """Compute the variance of one fact's difference of two outcomes, with half an event added to each cell.

    Args:
        first: Number of facts where only the first event occurred.
        second: Number of facts where only the second event occurred.
        n: Number of facts.
    """
    one, two = (first + 0.5) / (n + 1), (second + 0.5) / (n + 1)
    return one + two - (one - two) ** 2 if n else math.nan
