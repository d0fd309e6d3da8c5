"""Hold numbers with their confidence intervals: one type for results, tables and plots.

Every estimate has `value`, `low`, `high`, `n`, `level` and `p`. `interval(n)` gives the interval that the same outcomes
would have on `n` facts, so a verdict can ask how many facts would decide.

- `PlainEstimate`: a number whose interval was computed elsewhere, e.g. by a bootstrap.
- `Rate`: one proportion, with Wilson's interval.
- `MeanRate`: the mean of independent proportions. Its interval combines the variances of theirs (MOVER).
- `Contrast`: the difference of two proportions on different facts, with Newcombe's interval.
- `Difference`: the difference of two proportions on the same facts; see `paired_difference`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.results import storable
from unpact_lens.stats.intervals import LEVEL, NAN, Ends, Number, newcombe, paired_score_interval, wilson


class Estimate:
    """Hold a number with its confidence interval; undefined (NaN) if `n` is 0.

    Attributes:
        value: The number.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of facts that it was estimated on.
        level: Confidence level of the interval.
        p: P-value of the hypothesis that the value is 0; None if none was computed.
    """

    level: float = LEVEL
    p: float | None = None

    # Fields in some subclasses and properties in others: a property here would become the default of a field there.
    if TYPE_CHECKING:

        @property
        def value(self) -> float: ...  # noqa: D102
        @property
        def low(self) -> float: ...  # noqa: D102
        @property
        def high(self) -> float: ...  # noqa: D102
        @property
        def n(self) -> int: ...  # noqa: D102

    def interval(self, n: Number) -> Ends:
        """Return the interval that the same value would have on `n` facts: its half-widths scale with 1/√n."""
        scale = math.sqrt(self.n / n) if n else NAN
        return self.value - (self.value - self.low) * scale, self.value + (self.high - self.value) * scale

    def row(self) -> dict[str, float]:
        """Return the columns `value`, `low`, `high` and `n` of a table."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.n else "undefined"


@storable
@dataclass(frozen=True)
class PlainEstimate(Estimate):
    """Hold a number and an interval that were computed elsewhere; attributes as in `Estimate`.

    >>> str(PlainEstimate(0.5, 0.25, 0.75, n=10))
    '0.50 [0.25, 0.75]'
    """

    value: float
    low: float
    high: float
    n: int
    level: float = LEVEL
    p: float | None = None

    @classmethod
    def of(cls, row: Float[Tensor, " 4"], level: float = LEVEL) -> PlainEstimate:
        """Convert a row `[value, low, high, n]`, as the bootstrap returns and results store them."""
        value, low, high, n = row.tolist()
        return cls(value, low, high, int(n), level)


class _FromCounts(Estimate):
    """Share what estimates from counts have in common: the ends are those of `interval(n)`."""

    @abstractmethod
    def interval(self, n: Number) -> Ends:
        """Return the interval that the same proportions would have on `n` facts."""

    @property
    def low(self) -> float:
        """Return the lower end of the interval."""
        return self.interval(self.n)[0]

    @property
    def high(self) -> float:
        """Return the upper end of the interval."""
        return self.interval(self.n)[1]


@storable
@dataclass(frozen=True)
class Rate(_FromCounts):
    """Hold a proportion with its Wilson interval; undefined (NaN) if `n` is 0.

    Attributes:
        count: Number of events.
        n: Number of trials.
        level: Confidence level of `low` and `high`.

    Raises:
        InputError: If `count` is not between 0 and `n`.

    >>> str(Rate(3, 10)), str(Rate(0, 0))
    ('0.30 [0.11, 0.60]', 'undefined')
    """

    count: int
    n: int
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.n:
            raise InputError(f"a rate of {self.count} in {self.n}; events must lie between 0 and the number of trials")

    @property
    def value(self) -> float:
        """Return `count / n`; NaN if `n` is 0."""
        return self.count / self.n if self.n else NAN

    def interval(self, n: Number) -> Ends:
        """Return the Wilson interval of this proportion for `n` trials."""
        return wilson(self.value * n, n, self.level) if self.n else (NAN, NAN)


@storable
@dataclass(frozen=True)
class MeanRate(_FromCounts):
    """Hold the unweighted mean of independent proportions, e.g. destruction of near and of far facts.

    The interval recovers the variance of each part from the part's own interval. Undefined if a part is undefined.

    Attributes:
        parts: The proportions. With several seeds, each part is a `Difference` from no event.

    Source: Zou & Donner 2008, Statistics in Medicine 27:1693 (MOVER).
    """

    parts: tuple[Estimate, ...]

    @property
    def n(self) -> int:
        """Return the number of trials of all parts; 0 if a part has none."""
        return sum(p.n for p in self.parts) if all(p.n for p in self.parts) else 0

    @property
    def value(self) -> float:
        """Return the mean of the parts' values."""
        return sum(p.value for p in self.parts) / len(self.parts) if self.n else NAN

    def interval(self, n: Number) -> Ends:
        """Return the interval for `n` trials in total, with the same share of trials in each part."""
        if not self.n:
            return NAN, NAN
        ends = [(p.value, *p.interval(p.n * n / self.n)) for p in self.parts]
        below = math.sqrt(sum((v - low) ** 2 for v, low, _ in ends)) / len(ends)
        above = math.sqrt(sum((high - v) ** 2 for v, _, high in ends)) / len(ends)
        return max(0.0, self.value - below), min(1.0, self.value + above)


@storable
@dataclass(frozen=True)
class Contrast(_FromCounts):
    """Hold the difference `first − second` of two proportions on different facts, with Newcombe's interval.

    Attributes:
        first: Proportion of interest.
        second: Proportion that is subtracted.
    """

    first: Rate
    second: Rate

    @property
    def n(self) -> int:
        """Return the number of trials of the first; 0 if one of the two has none."""
        return self.first.n if self.second.n else 0

    @property
    def value(self) -> float:
        """Return the difference; NaN if one of the two is undefined."""
        return self.first.value - self.second.value

    def interval(self, n: Number) -> Ends:
        """Return the interval for `n` trials of the first, and proportionally many of the second."""
        if not self.n:
            return NAN, NAN
        other = self.second.n * n / self.n
        return newcombe(self.first.value, self.first.interval(n), self.second.value, self.second.interval(other))


@storable
@dataclass(frozen=True)
class Difference(_FromCounts):
    """Hold the difference `first − second` of two proportions on the same facts.

    The interval is the wider of a paired cluster bootstrap and the paired score interval. The bootstrap alone has zero
    width if no event was observed, however few the facts.

    Attributes:
        both: Facts where both events occurred. With several seeds, a fact counts with its share of the seeds.
        only_first: Facts where only the first event occurred.
        only_second: Facts where only the second event occurred.
        neither: Facts where neither occurred.
        clusters: Number of subjects that the facts are about.
        bootstrap: Ends of the paired cluster bootstrap; None if there are no facts.
        p: McNemar's exact p-value; None if there are no facts.
        level: Confidence level.
    """

    both: float
    only_first: float
    only_second: float
    neither: float
    clusters: int
    bootstrap: tuple[float, float] | None
    p: float | None
    level: float = LEVEL

    @property
    def n(self) -> int:
        """Return the number of facts compared."""
        return round(self.both + self.only_first + self.only_second + self.neither)

    @property
    def value(self) -> float:
        """Return the first rate minus the second; NaN if no facts are compared."""
        return (self.only_first - self.only_second) / self.n if self.n else NAN

    def interval(self, n: Number) -> Ends:
        """Return the wider of bootstrap and score interval, both for `n` facts.

        The score interval is recomputed. The factor by which the bootstrap interval is wider (the design effect of the
        clusters) is kept.
        """
        if self.bootstrap is None:
            return NAN, NAN
        score = paired_score_interval(self.both, self.only_first, self.only_second, self.neither, self.level)
        low_effect = _times_wider(self.value - self.bootstrap[0], self.value - score[0])
        high_effect = _times_wider(self.bootstrap[1] - self.value, score[1] - self.value)
        share = n / self.n
        low, high = paired_score_interval(
            self.both * share, self.only_first * share, self.only_second * share, self.neither * share, self.level
        )
        return self.value - (self.value - low) * low_effect, self.value + (high - self.value) * high_effect


def _times_wider(width: float, other: float) -> float:
    """Return how many times wider than `other` a width is, at least 1."""
    return max(1.0, width / other) if other > 0 else 1.0


def lost(right_before: Bool[Tensor, " item"], right_after: Bool[Tensor, " item"]) -> Rate:
    """Compute the share of facts right before unlearning that are wrong after it.

    This is forgetting F on forget facts and destruction D on all others.

    Args:
        right_before: True for facts that the original model gave.
        right_after: True for facts that the unlearned model gives.

    Returns:
        The rate; undefined if no fact was right before.

    Raises:
        InputError: If the shapes differ.
    """
    require_same_facts(right_before, right_after)
    return Rate(int((right_before & ~right_after).sum()), int(right_before.sum()))


def require_same_facts(first: Tensor, second: Tensor) -> None:
    """Check that two tensors hold outcomes of the same facts.

    Raises:
        InputError: If the shapes differ.
    """
    if first.shape != second.shape:
        raise InputError(
            f"outcomes of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be paired; they must be of the "
            "same facts"
        )
