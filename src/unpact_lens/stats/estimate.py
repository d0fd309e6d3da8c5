"""Hold numbers with their confidence intervals: one type for results, tables and plots.

Every estimate has `value`, `low`, `high`, `n`, `level` and `p`. `interval(n)` gives the interval that the same outcomes
would have on `n` facts, so a verdict can ask how many facts would decide.

- `PlainEstimate`: a number whose interval was computed elsewhere, e.g. by a bootstrap.
- `Rate`: one proportion, with Wilson's interval for the number of independent facts that its facts are worth.
- `MeanRate`: the mean of independent proportions. Its interval combines the variances of theirs (MOVER).
- `Contrast`: the difference of two proportions on different facts, with Newcombe's interval.
- `Difference`: the difference of two proportions on the same facts; see `paired_difference`.

An interval of a family, e.g. of all probes, holds simultaneously with the others. `alone` has its own interval.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.results import storable
from unpact_lens.stats.clusters import (
    as_rows,
    design_effect,
    effective_n,
    over_seeds,
    seed_variance,
    spread_of,
)
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
        adjusted_p: P-value adjusted for all estimates of a family; None outside a family.
    """

    level: float = LEVEL
    p: float | None = None
    adjusted_p: float | None = None

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

    @property
    def alone(self) -> Estimate:
        """Return this estimate with the interval that it has outside its family."""
        return self

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

    Facts of one subject are alike, so the interval is that of the effective number of facts. It is never narrower than
    for independent facts, and equals it if every subject has one fact and there is one seed.

    Attributes:
        count: Number of events. With several seeds, a fact counts with its share of the seeds.
        n: Number of facts.
        level: Confidence level of `low` and `high`.
        design_effect: Factor by which facts about one subject multiply the variance.
        seed_variance: Variance that the choice of seeds adds.

    Raises:
        InputError: If `count` is not between 0 and `n`.

    Source: Wilson 1927 with the effective sample size of Kish 1965; compared with other intervals of clustered
    proportions by Franco, Little, Louis & Slud 2019, J. Survey Stat. Methodol. 7:334.

    >>> str(Rate(3, 10)), str(Rate(3, 10, design_effect=2)), str(Rate(0, 0))
    ('0.30 [0.11, 0.60]', '0.30 [0.07, 0.70]', 'undefined')
    """

    count: float
    n: int
    level: float = LEVEL
    design_effect: float = 1.0
    seed_variance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.n:
            raise InputError(f"a rate of {self.count} in {self.n}; events must lie between 0 and the number of trials")

    @classmethod
    def of(
        cls,
        happened: Bool[Tensor, "*seeds item"],
        clusters: Sequence[str],
        *,
        among: Bool[Tensor, "*seeds item"] | None = None,
        level: float = LEVEL,
    ) -> Rate:
        """Compute the rate of an event over facts, with the design effect of subjects and seeds.

        Args:
            happened: True for facts where the event occurred, in rows if there are several seeds.
            clusters: Subject of each fact.
            among: True for outcomes that count; if None, all. A fact counts with its mean over the seeds in which it
                counts.
            level: Confidence level.

        Raises:
            InputError: If the shapes or the number of subjects do not fit.
        """
        rows, mask = as_rows(happened, clusters, among)
        shares, present = over_seeds(rows, mask)
        n = int(present.sum())
        count = float(shares[present].sum())
        return cls(
            count=min(float(n), round(count, 9)),
            n=n,
            level=level,
            design_effect=design_effect(happened, clusters, among=among),
            seed_variance=seed_variance(rows, mask, clusters, level),
        )

    @property
    def value(self) -> float:
        """Return `count / n`; NaN if `n` is 0."""
        return self.count / self.n if self.n else NAN

    @property
    def effective_n(self) -> float:
        """Return the number of independent facts that would give the same interval."""
        return self._effective(self.n)

    def interval(self, n: Number) -> Ends:
        """Return the Wilson interval of this proportion for `n` facts, as clustered as these."""
        if not self.n:
            return NAN, NAN
        effective = self._effective(n)
        return wilson(self.value * effective, effective, self.level)

    def _effective(self, n: Number) -> float:
        if not self.n:
            return 0.0
        return effective_n(n, self.design_effect, self.seed_variance, self.value * (1 - self.value))


@storable
@dataclass(frozen=True)
class MeanRate(_FromCounts):
    """Hold the unweighted mean of proportions, e.g. destruction of near and of far facts.

    The interval recovers the variance of each part from the part's own interval. Undefined if a part is undefined.

    Attributes:
        parts: The proportions.
        correlation: Correlation of the parts, 0 to 1: they may be about the same subjects and share seeds. Use `of` to
            bound it.

    Source: Zou & Donner 2008, Statistics in Medicine 27:1693 (MOVER).
    """

    parts: tuple[Estimate, ...]
    correlation: float = 0.0

    @classmethod
    def of(cls, parts: Sequence[Rate], subjects: Sequence[Sequence[str]]) -> MeanRate:
        r"""Combine rates whose facts may be about the same subjects.

        Two means over $K_1$ and $K_2$ subjects, S of them shared, have a correlation of at most $S/\sqrt{K_1 K_2}$. It
        is reached if the facts of a subject are all alike. The largest over all pairs is used, and 1 if seeds differ.

        Args:
            parts: The rates.
            subjects: Subjects of the facts of each rate.
        """
        names = [set(part) for part in subjects]
        pairs = [(one, two) for i, one in enumerate(names) for two in names[:i] if one and two]
        shared = max((len(one & two) / math.sqrt(len(one) * len(two)) for one, two in pairs), default=0.0)
        return cls(tuple(parts), 1.0 if pairs and any(part.seed_variance for part in parts) else shared)

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
        below = self._combine([v - low for v, low, _ in ends])
        above = self._combine([high - v for v, _, high in ends])
        return max(0.0, self.value - below), min(1.0, self.value + above)

    def _combine(self, widths: Sequence[float]) -> float:
        """Compute the width of the mean: squares add up, and twice the products times the correlation."""
        squares = sum(w**2 for w in widths)
        return math.sqrt(squares + self.correlation * (sum(widths) ** 2 - squares)) / len(widths)


class _InFamily(_FromCounts):
    """Share what members of a family have in common: an interval that holds with all others, and their own."""

    if TYPE_CHECKING:
        each_level: float | None

    @property
    def at_level(self) -> float:
        """Return the level at which this interval is computed: its own, or the one that its family needs."""
        return self.level if self.each_level is None else self.each_level

    @property
    def alone(self) -> _InFamily:
        """Return this estimate with the interval that it has outside its family."""
        return replace(self, each_level=None, adjusted_p=None)  # type: ignore[type-var]


@storable
@dataclass(frozen=True)
class Contrast(_InFamily):
    """Hold the difference `first − second` of two proportions on different facts, with Newcombe's interval.

    Attributes:
        first: Proportion of interest.
        second: Proportion that is subtracted.
        each_level: Level of this interval such that all of its family hold at `level` together; None outside a family.
        adjusted_p: P-value adjusted for the family; None outside one.
    """

    first: Rate
    second: Rate
    each_level: float | None = None
    adjusted_p: float | None = None

    @property
    def n(self) -> int:
        """Return the number of trials of the first; 0 if one of the two has none."""
        return self.first.n if self.second.n else 0

    @property
    def value(self) -> float:
        """Return the difference; NaN if one of the two is undefined."""
        return self.first.value - self.second.value

    @property
    def p(self) -> float | None:  # type: ignore[override]
        """Return the p-value of the two-sample score test with the effective numbers of facts; None if undefined."""
        if not self.n:
            return None
        one, two = self.first.effective_n, self.second.effective_n
        pooled = (self.first.value * one + self.second.value * two) / (one + two)
        error = math.sqrt(pooled * (1 - pooled) * (1 / one + 1 / two))
        return math.erfc(abs(self.value) / error / math.sqrt(2)) if error > 0 else 1.0

    def interval(self, n: Number) -> Ends:
        """Return the interval for `n` trials of the first, and proportionally many of the second."""
        if not self.n:
            return NAN, NAN
        other = self.second.n * n / self.n
        first, second = (replace(rate, level=self.at_level) for rate in (self.first, self.second))
        return newcombe(first.value, first.interval(n), second.value, second.interval(other))


@storable
@dataclass(frozen=True)
class Difference(_InFamily):
    """Hold the difference `first − second` of two proportions on the same facts.

    The interval is Newcombe's paired score interval for the effective number of facts. It has no zero width if no event
    was observed.

    Attributes:
        both: Facts where both events occurred. With several seeds, a fact counts with its share of the seeds.
        only_first: Facts where only the first event occurred.
        only_second: Facts where only the second event occurred.
        neither: Facts where neither occurred.
        clusters: Number of subjects that the facts are about.
        p: P-value of the sign-flip test over subjects; None if there are no facts.
        level: Confidence level; of the whole family, if it is of one.
        design_effect: Factor by which facts about one subject multiply the variance.
        seed_variance: Variance that the choice of seeds adds.
        each_level: Level of this interval such that all of its family hold at `level` together; None outside a family.
        adjusted_p: P-value adjusted for the family; None outside one.
    """

    both: float
    only_first: float
    only_second: float
    neither: float
    clusters: int
    p: float | None
    level: float = LEVEL
    design_effect: float = 1.0
    seed_variance: float = 0.0
    each_level: float | None = None
    adjusted_p: float | None = None

    @property
    def n(self) -> int:
        """Return the number of facts compared."""
        return round(self.both + self.only_first + self.only_second + self.neither)

    @property
    def value(self) -> float:
        """Return the first rate minus the second; NaN if no facts are compared."""
        return (self.only_first - self.only_second) / self.n if self.n else NAN

    @property
    def effective_n(self) -> float:
        """Return the number of independent facts that would give the same interval."""
        return self._effective(self.n)

    def interval(self, n: Number) -> Ends:
        """Return the paired score interval for `n` facts in the same proportions, as clustered as these."""
        if not self.n:
            return NAN, NAN
        share = self._effective(n) / self.n
        both, one, two, neither = (c * share for c in (self.both, self.only_first, self.only_second, self.neither))
        return paired_score_interval(both, one, two, neither, self.at_level)

    def _effective(self, n: Number) -> float:
        spread = spread_of(self.only_first, self.only_second, self.n)
        return effective_n(n, self.design_effect, self.seed_variance, spread) if self.n else 0.0


def lost(
    right_before: Bool[Tensor, " item"], right_after: Bool[Tensor, "*seeds item"], clusters: Sequence[str] | None = None
) -> Rate:
    """Compute the share of facts right before unlearning that are wrong after it.

    This is forgetting F on forget facts and destruction D on all others.

    Args:
        right_before: True for facts that the original model gave.
        right_after: True for facts that the unlearned model gives, in rows if there are several seeds.
        clusters: Subject of each fact. If None, every fact is of its own subject.

    Returns:
        The rate; undefined if no fact was right before.

    Raises:
        InputError: If the shapes or the number of subjects do not fit.
    """
    require_same_facts(right_before, right_after if right_after.ndim == 1 else right_after[0])
    subjects = [str(i) for i in range(len(right_before))] if clusters is None else clusters
    among = right_before.expand_as(right_after)
    return Rate.of(~right_after, subjects, among=among)


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
