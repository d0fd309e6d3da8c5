"""Compute score intervals of proportions: Wilson's for one, Newcombe's for the difference of two."""

from __future__ import annotations

import math

from statsmodels.stats.proportion import proportion_confint

from unpact_lens.errors import InputError

LEVEL = 0.95
"""Confidence level of every interval unless another is given."""

NAN = float("nan")

Number = int | float
Ends = tuple[float, float]
"""Lower and upper end of an interval."""


def require_level(level: float) -> None:
    """Check a confidence level.

    Raises:
        InputError: If it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level={level}; a confidence level lies between 0 and 1, e.g. 0.95")


def wilson(count: Number, n: Number, level: float = LEVEL) -> Ends:
    """Compute the Wilson score interval of a proportion.

    Args:
        count: Number of events; fractions are allowed.
        n: Number of trials.
        level: Confidence level.

    Returns:
        Lower and upper end; (NaN, NaN) if `n` is 0.

    Source: Wilson 1927, through statsmodels.

    >>> tuple(round(x, 4) for x in wilson(0, 35))
    (0.0, 0.0989)
    """
    if n == 0:
        return NAN, NAN
    low, high = proportion_confint(count, n, alpha=1 - level, method="wilson")
    # At 0 and 1, rounding may leave the proportion outside by one unit in the last place.
    return min(float(low), count / n), max(float(high), count / n)


def newcombe(p1: float, ends1: Ends, p2: float, ends2: Ends) -> Ends:
    r"""Compute Newcombe's score interval for the difference $D$ of two independent proportions.

    $D - \sqrt{(p_1 - l_1)^2 + (u_2 - p_2)^2}$ and $D + \sqrt{(u_1 - p_1)^2 + (p_2 - l_2)^2}$.

    Args:
        p1: First proportion.
        ends1: Wilson interval $(l_1, u_1)$ of the first.
        p2: Second proportion, which is subtracted.
        ends2: Wilson interval $(l_2, u_2)$ of the second.

    Returns:
        Lower and upper end.

    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10.
    """
    (l1, u1), (l2, u2) = ends1, ends2
    return p1 - p2 - math.hypot(p1 - l1, u2 - p2), p1 - p2 + math.hypot(u1 - p1, p2 - l2)


def paired_score_interval(
    both: Number, only_first: Number, only_second: Number, neither: Number, level: float = LEVEL
) -> Ends:
    r"""Compute the score interval for the difference of two proportions observed on the same items.

    The ends of both Wilson intervals are combined with the correlation $\hat\phi$ (continuity-corrected):
    $D - \sqrt{a^2 - 2\hat\phi ab + b^2}$ with $a = p_1 - l_1$, $b = u_2 - p_2$; the upper end uses $u_1 - p_1$ and
    $p_2 - l_2$. If no event occurred on either side, the ends are those of Wilson's interval for 0 in n.

    Args:
        both: Items where both events occurred.
        only_first: Items where only the first event occurred.
        only_second: Items where only the second event occurred.
        neither: Items where neither occurred.
        level: Confidence level.

    Returns:
        Lower and upper end.

    Source: Newcombe 1998, Statistics in Medicine 17:2635, method 10.
    """
    n = both + only_first + only_second + neither
    yes1, yes2 = both + only_first, both + only_second
    (l1, u1), (l2, u2) = wilson(yes1, n, level), wilson(yes2, n, level)
    p1, p2 = yes1 / n, yes2 / n
    cross = both * neither - only_first * only_second
    margins = yes1 * (n - yes1) * yes2 * (n - yes2)
    if cross > 0:
        cross = max(0.0, cross - n / 2)
    phi = cross / math.sqrt(margins) if margins > 0 else 0.0
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    return p1 - p2 - math.sqrt(max(0.0, below)), p1 - p2 + math.sqrt(max(0.0, above))
