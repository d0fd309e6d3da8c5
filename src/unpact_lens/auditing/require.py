"""Check an audit against requirements, for the CI of model releases."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from unpact_lens.auditing.result import Audit
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.verdict import LABELS
from unpact_lens.stats.estimate import Estimate

ENDS = ("value", "low", "high", "n")
"""What may follow a measure after a dot."""

COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip

_CONDITION = re.compile(r"\s*([A-Za-z_]+(?:\[[^\]]+\])?)(?:\.([a-z]+))?\s*(==|!=|<=|>=|<|>)\s*([^\s,]+)\s*")

VERDICT, DISTANCE = "verdict", "distance"


@dataclass(frozen=True)
class Condition:
    """Hold one condition on an audit.

    Attributes:
        text: Condition as it was written.
        name: `"verdict"`, `"distance"` or the name of a measure.
        end: `"value"`, `"low"`, `"high"` or `"n"`; empty for the whole 95% CI.
        comparison: One of `==`, `!=`, `<=`, `>=`, `<` and `>`.
        wanted: Label or number on the right.
    """

    text: str
    name: str
    end: str
    comparison: str
    wanted: str

    def holds(self, audit: Audit) -> bool:
        """Return whether an audit meets the condition. An undefined number meets none."""
        if self.name == VERDICT:
            return (self.wanted in audit.verdict.labels) == (self.comparison == "==")
        compare, limit = COMPARED[self.comparison], float(self.wanted)
        return compare(self._number(audit), limit)

    def found(self, audit: Audit) -> str:
        """Return what the audit has, for a message."""
        if self.name == VERDICT:
            return str(audit.verdict)
        if self.name == DISTANCE:
            return f"{audit.verdict.distance:.3f}"
        return str(_measures(audit)[self.name])

    def _number(self, audit: Audit) -> float:
        """Return the number that is compared: without a suffix, the end of the 95% CI that is hardest to meet."""
        if self.name == DISTANCE:
            return audit.verdict.distance
        end = self.end or ("high" if self.comparison.startswith("<") else "low")
        if self.name == "excess" and not self.end:
            # Every probe must be on the right side, each by its own interval, as for the verdict "erased".
            ends = [getattr(e.alone, end) for e in audit.excesses.values() if e.n]
            return max(ends, default=float("nan")) if end == "high" else min(ends, default=float("nan"))
        measure = _measures(audit)[self.name]
        return float(getattr(measure.alone if not self.end else measure, end))


def read_requirements(text: str) -> tuple[Condition, ...]:
    """Read conditions such as `verdict==erased, D<=0.1, excess<=0.1`; nothing is evaluated.

    A measure is compared with its whole 95% CI: `D<=0.1` holds if the upper end is at most 0.1. `D.value<=0.1` compares
    the estimate alone. `excess` stands for every probe, `excess[prefill]` for one.

    Args:
        text: Conditions, with commas between them.

    Raises:
        InputError: If a condition cannot be read, or a label or the end of an interval is unknown.

    >>> [c.name for c in read_requirements("verdict==erased, D<=0.1")]
    ['verdict', 'D']
    """
    conditions = []
    for part in filter(str.strip, text.split(",")):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise InputError(
                f"requirement {part.strip()!r} cannot be read; write NAME, comparison and value, e.g. verdict==erased "
                "or D<=0.1"
            )
        name, end, comparison, wanted = match[1], match[2] or "", match[3], match[4]
        _check(part.strip(), name, end, comparison, wanted)
        conditions.append(Condition(part.strip(), name, end, comparison, wanted))
    if not conditions:
        raise InputError("no requirement is given; write e.g. verdict==erased, D<=0.1, excess<=0.1")
    return tuple(conditions)


def _check(text: str, name: str, end: str, comparison: str, wanted: str) -> None:
    """Refuse an unknown name, label or suffix, and a comparison that does not fit."""
    if name == VERDICT:
        if comparison not in ("==", "!="):
            raise InputError(f"requirement {text!r}: a verdict is compared by == or !=")
        if wanted not in LABELS:
            raise InputError(f"requirement {text!r}: unknown verdict {wanted!r}; {nearest(wanted, LABELS)}")
        return
    known = (VERDICT, DISTANCE, "F", "remaining", "D", "D_trained", "excess")
    if name not in known and not re.fullmatch(r"(excess|R)\[.+\]", name):
        raise InputError(f"requirement {text!r}: unknown measure {name!r}; {nearest(name, known)}")
    if end and end not in ENDS:
        raise InputError(f"requirement {text!r}: unknown end {end!r}; {nearest(end, ENDS)}")
    if comparison not in COMPARED:
        raise InputError(f"requirement {text!r}: a number is compared by <=, >=, < or >")
    try:
        float(wanted)
    except ValueError:
        raise InputError(f"requirement {text!r}: {wanted!r} is no number") from None


def unmet(audit: Audit, conditions: tuple[Condition, ...]) -> tuple[str, ...]:
    """Return a line for each condition that an audit does not meet, with what it has.

    Args:
        audit: Finished audit.
        conditions: Conditions, as `read_requirements` returns them.

    Raises:
        InputError: If a condition names a probe that was not run.
    """
    found = []
    for condition in conditions:
        if condition.name not in (VERDICT, DISTANCE) and condition.name not in _measures(audit):
            raise InputError(
                f"requirement {condition.text!r}: {condition.name!r} was not measured; "
                f"{nearest(condition.name, _measures(audit))}"
            )
        if not condition.holds(audit):
            found.append(f"{condition.text} does not hold: {condition.name} is {condition.found(audit)}")
    return tuple(found)


def _measures(audit: Audit) -> dict[str, Estimate]:
    recovery = audit.recovery
    rates: dict[str, Estimate] = {} if recovery is None else {f"R[{p}]": recovery.rate(p) for p in recovery.probes}
    return audit.measures() | rates
