"""Test paired outcomes by flipping the sign of whole subjects: McNemar's test for clustered facts and several seeds.

If two models recover a fact equally often, their outcomes on a subject could be swapped. A subject's difference is the
sum over its facts of the mean over seeds, so that a copy of a seed changes nothing. With one seed and one fact a
subject, the test is McNemar's exact test. With several hypotheses, the p-value of each is adjusted by the largest
studentised statistic over all of them, which holds the chance of any false rejection at the level.

Source: Fisher 1935; Westfall & Young 1993 for the maximum; Hemerik, Goeman & Finos 2020, JRSS B 82:841, for flipping
whole contributions.
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import NDArray

from unpact_lens.stats.finite import require_finite

FLIPS = 9999
"""Random flips if there are more than `EXACT` subjects."""

EXACT = 13
"""Up to this many subjects with a difference, all 2^n flips are enumerated."""

CELLS = 4_000_000
"""Largest number of statistics that are held at once."""

TOLERANCE = 1e-9
"""Differences up to this are 0."""


def sign_flip_p(differences: NDArray[np.float64]) -> float:
    """Compute the exact two-sided p-value that subjects' differences are symmetric about 0.

    All flips are counted by convolution. The statistic is the sum; dividing it by the root of the sum of squares, which
    flips do not change, would give the same p-value.

    Args:
        differences: Difference of each subject, `[subject]`: sums of means over seeds, fractions with small
            denominators.

    Returns:
        The p-value; 1 if no subject has a difference.

    Raises:
        InputError: If the differences are not one for each subject, or one is not finite.
    """
    require_finite(differences, "differences", "subject")
    parts = [Fraction(float(d)).limit_denominator(1000) for d in differences if abs(d) > TOLERANCE]
    scale = lcm(*(p.denominator for p in parts)) if parts else 1
    steps = [abs(int(p * scale)) for p in parts]
    total = sum(steps)
    chance = np.ones(1)  # of each sum of the flipped differences, from -total to total
    for step in steps:
        wider = np.zeros(len(chance) + 2 * step)
        wider[: len(chance)] += chance / 2
        wider[2 * step :] += chance / 2
        chance = wider
    seen = abs(int(sum(p * scale for p in parts)))
    extreme = np.abs(np.arange(-total, total + 1)) >= seen
    return float(min(1.0, chance[extreme].sum()))


def max_sign_flip_p(differences: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Compute the p-value of each hypothesis, adjusted for the maximum over all of them.

    Args:
        differences: Difference of each subject and hypothesis, `[subject, hypothesis]`; a subject without facts for a
            hypothesis has 0.
        seed: Random seed of the flips.

    Returns:
        Adjusted p-values, `[hypothesis]`; 1 for a hypothesis without any difference.

    Raises:
        InputError: If the differences are no table, or one is not finite.
    """
    require_finite(differences, "differences", "subject, hypothesis")
    kept = differences[(np.abs(differences) > TOLERANCE).any(1)]
    lengths = np.sqrt((kept**2).sum(0))  # [hypothesis]
    if not len(kept):
        return np.ones(differences.shape[1])
    unit = np.divide(kept, lengths, out=np.zeros_like(kept), where=lengths > 0)
    seen = np.abs(unit.sum(0))
    reached = np.zeros(differences.shape[1])
    flips = _flips(len(kept), seed)
    parts = -(-len(flips) * differences.shape[1] // CELLS)  # bounds the memory of one product
    for part in np.array_split(flips, parts):
        largest = np.abs(part @ unit).max(1)  # [flip]
        reached += (largest[:, None] >= seen - TOLERANCE).sum(0)
    adjusted = reached / len(flips)
    return np.where(lengths > 0, np.minimum(adjusted, 1.0), 1.0)


def _flips(subjects: int, seed: int) -> NDArray[np.float64]:
    """Return all flips, or the identity and random ones, `[flip, subject]`."""
    if subjects <= EXACT:
        bits = np.arange(2**subjects)[:, None] >> np.arange(subjects) & 1
        return (1 - 2 * bits).astype(np.float64)
    drawn = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, subjects)) * 2.0 - 1.0
    return np.concatenate([np.ones((1, subjects)), drawn])
