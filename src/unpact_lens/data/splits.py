"""Split retain facts by subject: facts that the retain term trains on, facts for tuning, and unseen facts.

A method that trains on the very facts on which its damage is measured looks harmless: it rehearses them. Destruction is
therefore measured on subjects that no retain term and no search of hyperparameters has seen.

A subject is in exactly one part. Subjects are dealt stratum by stratum (only near facts, both kinds, only far facts)
and in the order of their share of near facts. So each part gets its share of near and of far facts. Which subject goes
where depends on the subjects, the shares and the seed only, not on the order of the facts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from unpact_lens.errors import InputError
from unpact_lens.results import storable

if TYPE_CHECKING:
    from unpact_lens.data.benchmark import QA

TRAINED, VALIDATION, UNSEEN = "trained", "validation", "unseen"

PARTS = (TRAINED, VALIDATION, UNSEEN)
"""Parts of the retain facts, in the order of their shares."""

KEPT = ("near", "far")
"""Groups of retain facts."""

Shares = tuple[float, float, float]

SHARES: Shares = (0.5, 0.15, 0.35)
"""Default shares of the subjects: trained, validation, unseen."""


class Facts(tuple["QA", ...]):
    """Hold a tuple of facts, with its near and far facts at hand.

    >>> from unpact_lens.data.benchmark import QA
    >>> facts = Facts([QA("a?", " b", group="near"), QA("c?", " d", group="far")])
    >>> len(facts), facts.near[0].answer, facts.far[0].answer
    (2, ' b', ' d')
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Show the number of facts in each group, not the facts."""
        return f"Facts({len(self)}: {len(self.near)} near, {len(self.far)} far)"

    @property
    def near(self) -> Facts:
        """Return the facts of group `"near"`."""
        return Facts(q for q in self if q.group == "near")

    @property
    def far(self) -> Facts:
        """Return the facts of group `"far"`."""
        return Facts(q for q in self if q.group == "far")

    @property
    def subjects(self) -> tuple[str, ...]:
        """Return each subject once, in the order of its first fact. A fact without a subject is its own."""
        return tuple(dict.fromkeys(subject_of(q) for q in self))


# The code checks a request itself and makes `Facts` of any tuple; run-time type checkers leave both to it.
if TYPE_CHECKING:
    SplitRequest = Shares | Sequence[float] | Literal["auto"] | None
    FactsGiven = Facts
else:
    SplitRequest, FactsGiven = object, tuple
"""`"auto"` is `SHARES` where there are enough subjects, and else no split with a warning. None is no split."""


@storable
@dataclass(frozen=True)
class RetainSplit:
    """Hold how retain facts were split.

    Attributes:
        shares: Shares of the subjects: trained, validation, unseen.
        seed: Random seed of the split.
    """

    shares: Shares = SHARES
    seed: int = 0


class RetainParts(NamedTuple):
    """Hold the parts of the retain facts.

    Attributes:
        trained: Facts that a retain term may train on.
        validation: Facts that a search of hyperparameters may score.
        unseen: Facts on which destruction is measured.
    """

    trained: Facts
    validation: Facts
    unseen: Facts


def subject_of(qa: QA) -> str:
    """Return the subject of a fact. A fact without a subject is its own."""
    return qa.subject or qa.id or qa.prompt


def split_retain(items: Iterable[QA], shares: Sequence[float] = SHARES, seed: int = 0) -> RetainParts:
    """Split retain facts into trained, validation and unseen ones, by subject and stratified by near and far.

    Args:
        items: Retain facts, of groups `"near"` and `"far"`. The order within each part is theirs.
        shares: Shares of the subjects for trained, validation and unseen. They sum to 1; a share may be 0.
        seed: Random seed of the split.

    Returns:
        The three parts. No subject is in two of them.

    Raises:
        InputError: If the shares are not three numbers from 0 to 1 that sum to 1, or a part with a positive share would
            have no fact of a group that the items have.
    """
    facts = Facts(items)
    parts = deal_subjects(facts, shares, seed)
    for group, missing in gaps(parts, shares).items():
        n = len(getattr(facts, group).subjects)
        raise InputError(
            f"{n} subject{'s' * (n != 1)} with {group} retain facts cannot be split {_shown(shares)}: no "
            f"{' and no '.join(missing)} {group} fact would be left; give more subjects, another "
            "retain_split=(trained, validation, unseen), or retain_split=None"
        )
    return parts


def deal_subjects(facts: FactsGiven, shares: Sequence[float], seed: int) -> RetainParts:
    """Split as `split_retain`, but let a part lack a group that has too few subjects; unseen gets the first of them.

    Args:
        facts: Retain facts.
        shares: Shares of the subjects.
        seed: Random seed of the split.

    Raises:
        InputError: If the shares are not three numbers from 0 to 1 that sum to 1.
    """
    wanted = checked_shares(shares)
    part: dict[str, str] = {}
    for stratum in _strata(facts, seed):
        part |= zip(stratum, _deal(len(stratum), wanted), strict=True)
    return RetainParts(*(Facts(q for q in facts if part[subject_of(q)] == name) for name in PARTS))


def gaps(parts: RetainParts, shares: Sequence[float]) -> dict[str, list[str]]:
    """Return, for each group of facts, the parts with a positive share that have none of them; without full groups."""
    found = {}
    for group in KEPT:
        sizes = [len(getattr(part, group)) for part in parts]
        missing = [name for name, share, size in zip(PARTS, shares, sizes, strict=True) if share and not size]
        if any(sizes) and missing:
            found[group] = missing
    return found


def checked_shares(shares: SplitRequest) -> Shares:
    """Return the shares as a tuple.

    Raises:
        InputError: If they are not three numbers from 0 to 1 that sum to 1.
    """
    if not isinstance(shares, str) and isinstance(shares, Sequence) and len(shares) == 3:
        numbers = [s for s in shares if isinstance(s, (int, float)) and not isinstance(s, bool) and 0 <= s <= 1]
        if len(numbers) == 3 and math.isclose(sum(numbers), 1.0, abs_tol=1e-9):
            return float(numbers[0]), float(numbers[1]), float(numbers[2])
    raise InputError(
        f"retain_split={shares!r}; give three shares (trained, validation, unseen) from 0 to 1 that sum to 1, e.g. "
        f"{SHARES}, or None for no split"
    )


def _strata(facts: FactsGiven, seed: int) -> list[list[str]]:
    """Return the subjects of each stratum, in the order in which they are dealt."""
    groups: dict[str, list[str]] = {}
    for q in facts:
        groups.setdefault(subject_of(q), []).append(q.group)
    order = sorted(groups)
    rng = random.Random(f"retain split/{seed}")
    rng.shuffle(order)
    order.sort(key=lambda s: -groups[s].count("near") / len(groups[s]))  # stable: ties stay shuffled
    strata: dict[frozenset[str], list[str]] = {}
    for subject in order:
        strata.setdefault(frozenset(groups[subject]), []).append(subject)
    starts = [rng.randrange(len(stratum)) for stratum in strata.values()]  # else a place would decide the part
    return [stratum[k:] + stratum[:k] for k, stratum in zip(starts, strata.values(), strict=True)]


def _deal(n: int, shares: Shares) -> list[str]:
    """Return the part of each of `n` subjects in a row, so that each stretch of the row holds about its shares.

    >>> _deal(6, (0.5, 0.0, 0.5))
    ['trained', 'unseen', 'trained', 'unseen', 'trained', 'unseen']
    """
    quota = _quota(n, shares)
    given = [0, 0, 0]
    row = []
    for i in range(1, n + 1):
        behind = [quota[p] * i / n - given[p] if given[p] < quota[p] else -math.inf for p in range(3)]
        chosen = behind.index(max(behind))
        given[chosen] += 1
        row.append(PARTS[chosen])
    return row


def _quota(n: int, shares: Shares) -> list[int]:
    """Return the number of subjects for each part: by largest remainder, and at least one where `n` allows it.

    >>> _quota(10, (0.5, 0.15, 0.35)), _quota(3, (0.5, 0.15, 0.35)), _quota(1, (0.5, 0.15, 0.35))
    ([5, 1, 4], [1, 1, 1], [0, 0, 1])
    """
    wanted = [p for p in (2, 0, 1) if shares[p] > 0]  # unseen first: D is undefined without it
    if n < len(wanted):
        return [int(p in wanted[:n]) for p in range(3)]
    quota = [max(int(p in wanted), int(shares[p] * n + 1e-9)) for p in range(3)]
    while sum(quota) > n:  # a part that was raised to one subject takes it from the part with the largest surplus
        quota[max((p for p in range(3) if quota[p] > 1), key=lambda p: quota[p] - shares[p] * n)] -= 1
    while sum(quota) < n:
        quota[max(wanted, key=lambda p: shares[p] * n - quota[p])] += 1
    return quota


def _shown(shares: Sequence[float]) -> str:
    return "/".join(f"{share:g}" for share in shares)
