"""Choose KeyTokens: the units of a prompt with the largest contributions, by a rule with stated hyperparameters.

The paper's own rule (its Eq. 3 and 4) has unpublished hyperparameters. This module therefore offers three rules, and
`sensitivity` reports how conclusions change with them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.result import Attribution, KeyRule, KeyTokens, positive_mass
from unpact_lens.errors import InputError
from unpact_lens.results import storable
from unpact_lens.words import WORD


@dataclass(frozen=True, kw_only=True)
class RankingRule(KeyRule):
    """Rank units by contribution and take the first ones; subclasses decide how many."""

    def pick(self, attribution: Attribution) -> KeyTokens:
        """Choose the KeyTokens of an attribution under this rule."""
        groups = [g for g in self._groups(attribution) if self._allowed(attribution, g)]
        totals = torch.stack([attribution.scores[list(g)].sum() for g in groups]) if groups else torch.zeros(0)
        order = sorted(range(len(groups)), key=lambda g: (-float(totals[g]), g))
        chosen = order[: self._how_many(totals[order].double())]
        rows = tuple(i for g in chosen for i in sorted(groups[g], key=lambda i: (-float(attribution.scores[i]), i)))
        return KeyTokens(
            indices=rows,
            tokens=tuple(attribution.tokens[i] for i in rows),
            scores=attribution.scores[list(rows)].clone(),
            words=words_of(attribution, rows),
            rule=self,
            mass=positive_mass(attribution.scores, rows),
            answer_source=attribution.answer_source,
        )

    @abstractmethod
    def _how_many(self, descending: Float[Tensor, " unit"]) -> int:
        """Return how many units are key, given their contributions in descending order."""

    def _groups(self, attribution: Attribution) -> list[tuple[int, ...]]:
        """Group the rows that are ranked as one: single rows, or the pieces of a word."""
        rows = range(len(attribution.tokens))
        if not self.words:
            return [(i,) for i in rows]
        spans = [m.span() for m in WORD.finditer(attribution.prompt)]
        owner = [next((w for w, s in enumerate(spans) if _overlap(attribution.spans[i], s)), None) for i in rows]
        grouped: dict[tuple[str, int], list[int]] = {}
        for i in rows:
            grouped.setdefault(("row", i) if owner[i] is None else ("word", owner[i] or 0), []).append(i)
        return [tuple(g) for g in grouped.values()]

    def _allowed(self, attribution: Attribution, rows: tuple[int, ...]) -> bool:
        """Return whether a group can be key: no stopword, and no punctuation if that is excluded."""
        words = words_of(attribution, rows)
        if self.skip_punctuation and not any(c.isalnum() for i in rows for c in attribution.tokens[i]):
            return False
        return not words or not all(w.lower() in self.stopwords for w in words)


@storable
@dataclass(frozen=True)
class TopK(RankingRule):
    """Take the k units with the largest contributions (all, if there are fewer).

    Attributes:
        k: Number of units, at least 1.
    """

    k: int = 3

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"TopK({self.k}): k counts tokens; give at least 1")

    def _how_many(self, descending: Float[Tensor, " unit"]) -> int:
        return self.k


@storable
@dataclass(frozen=True)
class Share(RankingRule):
    """Take the smallest set with a given share of the positive contributions; empty if none is positive.

    Attributes:
        share: Share between 0 (excluded) and 1.
    """

    share: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"Share({self.share}): a share lies above 0 and is at most 1")

    def _how_many(self, descending: Float[Tensor, " unit"]) -> int:
        positive = descending.clamp(min=0)
        total = positive.sum()
        if total == 0:
            return 0
        # Slightly below the share, so that rounding of the cumulative sum never adds a unit.
        reached = positive.cumsum(0) >= self.share * total * (1 - 1e-12)
        return int(reached.nonzero()[0]) + 1


@storable
@dataclass(frozen=True)
class Threshold(RankingRule):
    """Take all units whose contribution is at least a fraction of the largest; empty if none is positive.

    Attributes:
        fraction: Fraction of the largest contribution, between 0 and 1.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise InputError(f"Threshold({self.fraction}): a fraction of the largest contribution lies between 0 and 1")

    def _how_many(self, descending: Float[Tensor, " unit"]) -> int:
        if not len(descending) or descending[0] <= 0:
            return 0
        return int(((descending >= self.fraction * descending[0]) & (descending > 0)).sum())


def words_of(attribution: Attribution, rows: tuple[int, ...]) -> tuple[str, ...]:
    """Return the words of the prompt that some rows belong to, in the prompt's order, each once."""
    found = (
        match.group()
        for match in WORD.finditer(attribution.prompt)
        if any(_overlap(attribution.spans[i], match.span()) for i in rows)
    )
    return tuple(dict.fromkeys(found))


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return whether two half-open ranges overlap."""
    return max(a[0], b[0]) < min(a[1], b[1])
