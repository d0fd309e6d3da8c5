"""Test whether two samples have the same distribution (Kolmogorov-Smirnov), with log10 p below what a float can hold.

The p-value is scipy's. Where it underflows, its logarithm is computed here. Under the null hypothesis every
interleaving of the two samples is equally likely. An interleaving is a lattice path from (0, 0) to (m, n), and the
statistic is reached if the path leaves a band around the diagonal. These paths are counted with integers of any size.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Num
from scipy.stats import ks_2samp
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.results import storable

EXACT_CELLS = 4_000_000
"""Samples of unequal size m and n are tested exactly up to this m·n (seconds), and asymptotically above it."""

SMALLEST = sys.float_info.min
"""Below this, scipy's p-value has lost its precision or is 0."""


@storable
@dataclass(frozen=True)
class KSTest:
    """Hold the result of a two-sample KS test.

    Attributes:
        statistic: Largest distance between the two empirical distribution functions.
        log10_p: log10 of the two-sided p-value.
        exact: True if the p-value is exact, False if it is asymptotic.
        n: Sizes of the two samples.
    """

    statistic: float
    log10_p: float
    exact: bool
    n: tuple[int, int]

    @property
    def p(self) -> float:
        """Return the p-value; 0.0 if it is below the smallest float."""
        return 10.0**self.log10_p if self.log10_p < 0 else 1.0


def ks_test(first: Num[Tensor, " m"], second: Num[Tensor, " n"]) -> KSTest:
    """Test whether two samples have the same distribution: two-sided, as defined by `scipy.stats.ks_2samp`.

    Args:
        first: First sample, without NaN. Infinities are compared as values.
        second: Second sample.

    Raises:
        InputError: If a sample is empty or contains NaN.

    Source: Hodges 1958, Arkiv för Matematik 3(43), for the exact distribution.
    """
    for name, sample in (("first", first), ("second", second)):
        if not len(sample) or bool(torch.isnan(sample).any()):
            raise InputError(f"the {name} sample of the KS test {'contains NaN' if len(sample) else 'is empty'}")
    m, n = len(first), len(second)
    distance = _distance(first, second)
    statistic = distance / (m * n)
    if m != n and m * n > EXACT_CELLS:
        return KSTest(statistic, _asymptotic_log10_p(statistic, m, n), False, (m, n))
    p = _scipy_p(first, second)
    log10_p = _exact_log10_p(m, n, distance) if p is None else math.log10(p)
    return KSTest(statistic, log10_p, True, (m, n))


def _scipy_p(first: Num[Tensor, " m"], second: Num[Tensor, " n"]) -> float | None:
    """Return scipy's exact p-value, or None if it underflows or scipy cannot compute it exactly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # how scipy says that its exact calculation overflows
        try:
            p = float(ks_2samp(first.double().cpu().numpy(), second.double().cpu().numpy(), method="exact").pvalue)
        except RuntimeWarning:
            return None
    return p if p >= SMALLEST else None


def _distance(first: Num[Tensor, " m"], second: Num[Tensor, " n"]) -> int:
    """Compute m·n times the KS statistic, an integer."""
    m, n = len(first), len(second)
    a, b = first.double().sort().values, second.double().sort().values
    pooled = torch.cat([a, b])  # [m + n]
    below_a = torch.searchsorted(a, pooled, right=True)
    below_b = torch.searchsorted(b, pooled, right=True)
    return int((below_a * n - below_b * m).abs().max())


def _exact_log10_p(m: int, n: int, distance: int) -> float:
    """Compute log10 of the exact p-value: the share of lattice paths that reach |i·n − j·m| ≥ distance."""
    outside, total = _paths_equal(n, distance // n) if m == n else _paths(m, n, distance)
    return 0.0 if outside >= total else _log10(outside, total)


def _paths_equal(n: int, h: int) -> tuple[int, int]:
    """Count the paths of two samples of size n that reach a distance of h ≥ 1 steps, and all paths.

    By reflection, exactly: `2 Σ_{k≥1} (−1)^{k−1} C(2n, n − k·h)`.
    """
    outside = sum((-1) ** (k - 1) * math.comb(2 * n, n - k * h) for k in range(1, n // h + 1))
    return 2 * outside, math.comb(2 * n, n)


def _paths(m: int, n: int, distance: int) -> tuple[int, int]:
    """Count the paths that reach |i·n − j·m| ≥ distance, and all paths: those that stay inside, row by row."""
    total = math.comb(m + n, n)
    row = [0] * (n + 1)
    for i in range(m + 1):
        left = 0
        for j in range(n + 1):
            if abs(i * n - j * m) >= distance:
                left = row[j] = 0
            else:
                left = row[j] = 1 if i == j == 0 else left + row[j]
    return total - row[n], total


def _log10(numerator: int, denominator: int) -> float:
    """Compute log10 of a fraction of large integers."""
    shift = max(denominator.bit_length() - numerator.bit_length(), 0)
    # The scaled fraction is near 1, where true division of integers rounds once.
    return math.log10((numerator << shift) / denominator) - shift * math.log10(2)


def _asymptotic_log10_p(statistic: float, m: int, n: int) -> float:
    """Compute Kolmogorov's limit: `log10(2 Σ_{k≥1} (−1)^{k−1} exp(−2 k² z²))` with z = D·√(mn/(m+n))."""
    square = statistic**2 * m * n / (m + n)
    if square < 0.05:
        return 0.0
    series = sum((-1) ** (k - 1) * math.exp(-2 * (k**2 - 1) * square) for k in range(1, 40))
    return min((math.log(2 * series) - 2 * square) / math.log(10), 0.0)
