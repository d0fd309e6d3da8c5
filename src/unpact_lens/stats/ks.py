"""The two-sample Kolmogorov-Smirnov test, with p-values far below what a float can hold.

Under the null hypothesis every interleaving of the two samples is equally likely. An interleaving is a lattice path
from (0, 0) to (m, n); the statistic is reached when the path leaves a band around the diagonal. The paths are counted
with integers of any size, so the p-value is an exact fraction, and only its logarithm is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Num
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.results import storable

EXACT_CELLS = 4_000_000
"""Samples of unequal size are counted exactly up to this many lattice points (seconds), else asymptotically."""


@storable
@dataclass(frozen=True)
class KSTest:
    """Outcome of a two-sample KS test.

    Attributes:
        statistic: the largest distance between the two empirical distribution functions.
        log10_p: log10 of the two-sided p-value.
        exact: whether it was counted, or is the asymptotic one.
        n: sizes of the two samples.
    """

    statistic: float
    log10_p: float
    exact: bool
    n: tuple[int, int]

    @property
    def p(self) -> float:
        """The p-value; 0.0 where it is below the smallest float."""
        return 10.0**self.log10_p if self.log10_p < 0 else 1.0


def ks_test(first: Num[Tensor, " m"], second: Num[Tensor, " n"]) -> KSTest:
    """Whether two samples come from one distribution: two-sided, as `scipy.stats.ks_2samp` defines it.

    Args:
        first: a sample; no NaN. Infinities count as the values they are.
        second: the other.

    Raises:
        InputError: if a sample is empty or holds NaN.

    Source: Hodges 1958, Arkiv för Matematik 3(43), for the exact distribution.
    """
    for name, sample in (("first", first), ("second", second)):
        if not len(sample) or bool(torch.isnan(sample).any()):
            raise InputError(f"the {name} sample of the KS test {'holds NaN' if len(sample) else 'is empty'}")
    m, n = len(first), len(second)
    distance = _distance(first, second)
    statistic = distance / (m * n)
    if m != n and m * n > EXACT_CELLS:
        return KSTest(statistic, _asymptotic_log10_p(statistic, m, n), False, (m, n))
    outside, total = _paths_equal(n, distance // n) if m == n else _paths(m, n, distance)
    return KSTest(statistic, 0.0 if outside >= total else _log10(outside, total), True, (m, n))


def _distance(first: Num[Tensor, " m"], second: Num[Tensor, " n"]) -> int:
    """m·n times the KS statistic, an integer."""
    m, n = len(first), len(second)
    a, b = first.double().sort().values, second.double().sort().values
    pooled = torch.cat([a, b])
    below_a = torch.searchsorted(a, pooled, right=True)
    below_b = torch.searchsorted(b, pooled, right=True)
    return int((below_a * n - below_b * m).abs().max())


def _paths_equal(n: int, h: int) -> tuple[int, int]:
    """Paths of two samples of size n that reach a distance of h steps, and all paths, by reflection.

    `2 Σ_{k≥1} (−1)^{k−1} C(2n, n − k·h)`, exactly.
    """
    total = math.comb(2 * n, n)
    if h == 0:
        return total, total
    outside = sum((-1) ** (k - 1) * math.comb(2 * n, n - k * h) for k in range(1, n // h + 1))
    return 2 * outside, total


def _paths(m: int, n: int, distance: int) -> tuple[int, int]:
    """Paths that reach |i·n − j·m| ≥ distance, and all paths: those that stay inside are counted row by row."""
    total = math.comb(m + n, n)
    if distance == 0:
        return total, total
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
    """log10 of a fraction of large integers below 1, without cancellation near 1."""
    if 2 * numerator > denominator:
        return math.log1p(-((denominator - numerator) / denominator)) / math.log(10)
    shift = max(denominator.bit_length() - numerator.bit_length(), 0)
    # The scaled fraction lies near 1, where true division of integers rounds once.
    return math.log10((numerator << shift) / denominator) - shift * math.log10(2)


def _asymptotic_log10_p(statistic: float, m: int, n: int) -> float:
    """Kolmogorov's limit: `log10(2 Σ_{k≥1} (−1)^{k−1} exp(−2 k² z²))` with z = D·√(mn/(m+n))."""
    square = statistic**2 * m * n / (m + n)
    if square < 0.05:
        return 0.0
    series = sum((-1) ** (k - 1) * math.exp(-2 * (k**2 - 1) * square) for k in range(1, 40))
    return min((math.log(2 * series) - 2 * square) / math.log(10), 0.0)
