"""Rates with intervals, and differences of rates on the same facts.

Three estimates share one surface (`value`, `low`, `high`, `n`, `interval(n)`), so that a verdict can ask each of them
the same question: on which side of a threshold does it surely lie, and with how many facts would it?

- `Rate`: one proportion, Wilson interval.
- `MeanRate`: the mean of independent proportions, interval by recovery of the Wilson intervals' variances (MOVER).
- `Difference`: two proportions on the same facts; the wider of the paired cluster bootstrap over subjects and the
  paired score interval. A bootstrap alone has zero width where no event was seen, however few the facts.
- `Contrast`: two proportions on different facts, score interval.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.results import storable
from unpact_lens.stats.bootstrap import DRAWS, LEVEL, NAN, cluster_bootstrap

Number = int | float


def wilson(count: Number, n: Number, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval of a proportion; (NaN, NaN) when n is 0.

    Source: Wilson 1927, through statsmodels.

    >>> tuple(round(x, 4) for x in wilson(0, 35))
    (0.0, 0.0989)
    """
    if n == 0:
        return NAN, NAN
    low, high = proportion_confint(count, n, alpha=1 - level, method="wilson")
    return float(low), float(high)


class Estimate(ABC):
    """A number with its interval; undefined (NaN) when `n` is 0.

    Attributes:
        n: facts that it was estimated on.
    """

    n: int

    @property
    @abstractmethod
    def value(self) -> float:
        """The estimate."""

    @abstractmethod
    def interval(self, n: Number) -> tuple[float, float]:
        """The interval that the same proportions would have on `n` facts."""

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.interval(self.n)[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.interval(self.n)[1]

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.n else "undefined"


@storable
@dataclass(frozen=True)
class Rate(Estimate):
    """A proportion with its Wilson interval; undefined (NaN) when `n` is 0.

    Attributes:
        count: events.
        n: trials.
        level: confidence level of `low` and `high`.

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
        """`count / n`; NaN when `n` is 0."""
        return self.count / self.n if self.n else NAN

    def interval(self, n: Number) -> tuple[float, float]:
        """The Wilson interval of this proportion, had it been seen on `n` trials."""
        return wilson(self.value * n, n, self.level) if self.n else (NAN, NAN)


@storable
@dataclass(frozen=True)
class MeanRate(Estimate):
    """The unweighted mean of independent proportions, e.g. destruction of near and of far facts.

    Its interval recovers each part's variance from its own interval. Undefined when a part is.

    Attributes:
        parts: the proportions; over several seeds, each as a `Difference` from nothing.

    Source: Zou & Donner 2008, Statistics in Medicine 27:1693 (MOVER).
    """

    parts: tuple[Estimate, ...]

    @property
    def n(self) -> int:  # type: ignore[override]
        """Trials of all parts; 0 where a part has none."""
        return sum(p.n for p in self.parts) if all(p.n for p in self.parts) else 0

    @property
    def value(self) -> float:
        """The mean of the parts' values."""
        return sum(p.value for p in self.parts) / len(self.parts) if self.n else NAN

    def interval(self, n: Number) -> tuple[float, float]:
        """The interval, had the parts been seen on `n` trials in all, in the same shares."""
        if not self.n:
            return NAN, NAN
        ends = [(p.value, *p.interval(p.n * n / self.n)) for p in self.parts]
        below = math.sqrt(sum((v - low) ** 2 for v, low, _ in ends)) / len(ends)
        above = math.sqrt(sum((high - v) ** 2 for v, _, high in ends)) / len(ends)
        return max(0.0, self.value - below), min(1.0, self.value + above)


@storable
@dataclass(frozen=True)
class Contrast(Estimate):
    """The difference of two proportions seen on different facts: `first − second`.

    Attributes:
        first: the proportion of interest.
        second: what it is compared with.

    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10.
    """

    first: Rate
    second: Rate

    @property
    def n(self) -> int:  # type: ignore[override]
        """Trials of the first; 0 where one of the two has none."""
        return self.first.n if self.second.n else 0

    @property
    def value(self) -> float:
        """The difference; NaN when one of the two is undefined."""
        return self.first.value - self.second.value

    def interval(self, n: Number) -> tuple[float, float]:
        """The interval, had the first been seen on `n` facts, and the second on as many more in proportion."""
        if not self.n:
            return NAN, NAN
        (l1, u1), (l2, u2) = self.first.interval(n), self.second.interval(self.second.n * n / self.n)
        p1, p2 = self.first.value, self.second.value
        return self.value - math.hypot(p1 - l1, u2 - p2), self.value + math.hypot(u1 - p1, p2 - l2)


@storable
@dataclass(frozen=True)
class Difference(Estimate):
    """The difference of two proportions on the same facts: `first − second`.

    Attributes:
        both: facts where both happened (a share of each fact where there are several seeds).
        only_first: facts where only the first did.
        only_second: facts where only the second did.
        neither: facts where neither did.
        clusters: how many subjects the facts are of.
        bootstrap: the ends of the paired cluster bootstrap; None where there are no facts.
        p: McNemar's exact p-value; None where there are no facts.
        level: confidence level.
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
    def n(self) -> int:  # type: ignore[override]
        """Facts compared."""
        return round(self.both + self.only_first + self.only_second + self.neither)

    @property
    def value(self) -> float:
        """The first rate minus the second; NaN when no facts are compared."""
        return (self.only_first - self.only_second) / self.n if self.n else NAN

    def interval(self, n: Number) -> tuple[float, float]:
        """The wider of bootstrap and score interval, both as they would be on `n` facts.

        The score interval is recomputed; the excess of the bootstrap over it, a design effect of the clusters, is kept
        in proportion.
        """
        if self.bootstrap is None:
            return NAN, NAN
        score = paired_score_interval(self.both, self.only_first, self.only_second, self.neither, self.level)
        low_effect = _ratio(self.value - self.bootstrap[0], self.value - score[0])
        high_effect = _ratio(self.bootstrap[1] - self.value, score[1] - self.value)
        share = n / self.n
        low, high = paired_score_interval(
            self.both * share, self.only_first * share, self.only_second * share, self.neither * share, self.level
        )
        return self.value - (self.value - low) * low_effect, self.value + (high - self.value) * high_effect


def _ratio(width: float, of: float) -> float:
    """How many times wider, never less than 1."""
    return max(1.0, width / of) if of > 0 else 1.0


def paired_score_interval(
    both: Number, only_first: Number, only_second: Number, neither: Number, level: float = LEVEL
) -> tuple[float, float]:
    r"""Score interval for a difference of two proportions seen on the same items.

    Wilson's ends of the two proportions, joined with their correlation $\hat\phi$ (continuity-corrected):
    $D - \sqrt{a^2 - 2\hat\phi ab + b^2}$ with $a = p_1 - l_1$, $b = u_2 - p_2$; the upper end with $u_1 - p_1$ and
    $p_2 - l_2$. With no event on either side the ends are those of Wilson's interval for zero in n.

    Args:
        both: items where both events happened.
        only_first: items where only the first did.
        only_second: items where only the second did.
        neither: items where neither did.
        level: confidence level.

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


def lost(right_before: Bool[Tensor, " item"], right_after: Bool[Tensor, " item"]) -> Rate:
    """Among the facts right before, the fraction wrong after: forgetting F on forget facts, destruction D on others.

    Args:
        right_before: whether the model before gave each fact.
        right_after: whether the model after does.

    Returns:
        The rate; undefined when none was right before.
    """
    _check_pairs(right_before, right_after)
    return Rate(int((right_before & ~right_after).sum()), int(right_before.sum()))


def paired_difference(
    first: Bool[Tensor, "*seeds item"],
    second: Bool[Tensor, "*seeds item"],
    clusters: Sequence[str],
    *,
    among: Bool[Tensor, "*seeds item"] | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Rate of `first` minus rate of `second` on the same facts, with its interval and McNemar's test.

    Args:
        first: whether the event of interest happened to each fact; several seeds stand in rows.
        second: the same for what it is compared with.
        clusters: the subject of each fact; facts of one subject are resampled together.
        among: which facts count (per seed); None for all. Over seeds, a fact counts with its mean.
        level: confidence level.
        draws: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The difference; undefined when no fact counts.

    Raises:
        InputError: if the shapes or the number of clusters do not fit.
    """
    _check_pairs(first, second)
    if len(clusters) != first.shape[-1]:
        raise InputError(f"{len(clusters)} subjects for {first.shape[-1]} facts; give one subject a fact")
    counts = torch.ones_like(first) if among is None else among
    _check_pairs(first, counts)
    one, two, mask = (torch.atleast_2d(t).flatten(0, -2) for t in (first, second, counts))
    present = mask.any(0)
    if not present.any():
        return Difference(0.0, 0.0, 0.0, 0.0, 0, None, None, level)
    one, two, mask = one[:, present], two[:, present], mask[:, present]
    _, groups = np.unique([c for c, kept in zip(clusters, present.tolist(), strict=True) if kept], return_inverse=True)
    ends = cluster_bootstrap((one.double() - two.double()).numpy(), mask.numpy(), groups, level, draws, seed)
    p = mcnemar(int((one & ~two & mask).sum()), int((~one & two & mask).sum()))
    return Difference(
        both=_over_seeds(one & two, mask),
        only_first=_over_seeds(one & ~two, mask),
        only_second=_over_seeds(~one & two, mask),
        neither=_over_seeds(~one & ~two, mask),
        clusters=int(groups.max()) + 1,
        bootstrap=ends,
        p=p,
        level=level,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value from the discordant pairs; 1 when there are none.

    Source: McNemar 1947, through statsmodels.
    """
    return float(mcnemar_test([[0, only_first], [only_second, 0]], exact=True).pvalue)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """P-values adjusted for being several, by Holm's step-down; what is undefined stays so and does not count.

    Source: Holm 1979, through statsmodels.
    """
    defined = {name: p for name, p in p_values.items() if p is not None and not math.isnan(p)}
    adjusted = multipletests(list(defined.values()), method="holm")[1] if defined else []
    return {**p_values, **{name: float(p) for name, p in zip(defined, adjusted, strict=True)}}


def _over_seeds(cell: Tensor, mask: Tensor) -> float:
    """Facts in one cell of the table; a fact counts with the mean over the seeds in which it counts at all."""
    return float(((cell & mask).sum(0) / mask.sum(0)).sum())


def _check_pairs(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise InputError(
            f"outcomes of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be paired; they must be of the "
            "same facts"
        )
