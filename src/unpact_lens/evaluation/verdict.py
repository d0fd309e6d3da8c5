"""Judge an unlearning method by 95% CIs: insufficient, hid, destroyed, erased or undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.results import Result
from unpact_lens.stats.estimate import Estimate

EPSILON = 0.1
"""Tolerated remaining knowledge, destruction and excess recovery."""

MOST_FACTS = 1_000_000
"""An estimate that this many facts do not decide counts as equal to its threshold."""

LABELS = ("insufficient", "destroyed", "hid", "erased", "undecided")


@dataclass(frozen=True, eq=False)
class Verdict(Result):
    """Hold the labels of a method and the estimates behind them.

    Attributes:
        labels: Every label of `LABELS` whose rule holds; `("undecided",)` if none does.
        reasons: For each label, the estimate that gives it.
        open: Quantities whose interval contains the threshold, with an explanation, whether or not a label holds.
        n_needed: For each open quantity, the number of facts that would decide at the present estimate. None if no
            number would (the estimate equals its threshold, or is undefined).
        distance: Distance to reliable unlearning, 0 to sqrt(3); NaN if a part of it is undefined.
        epsilon: The tolerance.
    """

    labels: tuple[str, ...]
    reasons: dict[str, str]
    open: dict[str, str]
    n_needed: dict[str, int | None]
    distance: float
    epsilon: float = EPSILON

    def _brief(self) -> str:
        return joined(
            [str(self), f"distance {self.distance:.2f}", f"ε = {self.epsilon:g}", "; ".join(self.reasons.values())]
        )

    def __str__(self) -> str:
        return " + ".join(self.labels)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each label and each open quantity, its reason and the facts needed."""
        rows: list[dict[str, Any]] = [{"verdict": k, "why": v, "facts needed": None} for k, v in self.reasons.items()]
        rows += [{"verdict": f"open: {k}", "why": v, "facts needed": self.n_needed[k]} for k, v in self.open.items()]
        return pd.DataFrame(rows, columns=["verdict", "why", "facts needed"]).astype({"facts needed": "Int64"})


def verdict(
    forgetting: Estimate, destruction: Estimate, excesses: Mapping[str, Estimate], *, epsilon: float = EPSILON
) -> Verdict:
    """Judge a method by its forgetting F, its destruction D and the excess recovery of every probe.

    *insufficient* if F < 1−ε; *destroyed* if D > ε; *hid* if the excess of any probe > ε; *erased* if F ≥ 1−ε, D ≤ ε
    and every excess ≤ ε. A rule holds only if it holds on the whole interval. *undecided* if no rule holds.

    *hid* is a claim about the largest of many probes, so it needs an interval that holds for all probes together
    (`simultaneous_differences`, as `Recovery.excesses` gives). *erased* needs every part to hold, so each is judged by
    its own interval: to require all of several tests needs no correction (Berger 1982).

    Args:
        forgetting: F on the forget facts.
        destruction: D, the mean over near and far facts.
        excesses: For each probe, its recovery minus the retrained model's under the same probe, of one family.
        epsilon: Tolerance ε, between 0 and 1.

    Returns:
        The labels that hold, their reasons, and the number of facts that would decide the rest.

    Raises:
        InputError: If ε is not between 0 and 1.
    """
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon={epsilon}; the tolerance must lie between 0 and 1, e.g. 0.1")
    measured = {"forgetting": forgetting, "destruction": destruction}
    measured |= {f"excess of {probe}": excess for probe, excess in excesses.items()}
    thresholds = {name: 1 - epsilon if name == "forgetting" else epsilon for name in measured}
    sides = {name: side(m, thresholds[name], at_least=name == "forgetting") for name, m in measured.items()}

    reasons: dict[str, list[str]] = {}
    for name, found in sides.items():
        label = {("forgetting", "below"): "insufficient", ("destruction", "above"): "destroyed"}.get((name, str(found)))
        if label is None and name.startswith("excess") and found == "above":
            label = "hid"
        if label is not None:
            reasons.setdefault(label, []).append(f"{name} {measured[name]}")
    unopposed = sides["forgetting"] == "above" and all(s == "below" for n, s in sides.items() if n != "forgetting")
    if unopposed and excesses:
        reasons["erased"] = [f"{name} {m.alone}" for name, m in measured.items()]

    still_open = {n: _why_open(measured[n], thresholds[n]) for n, s in sides.items() if s is None}
    needed = {n: facts_to_decide(measured[n], thresholds[n], at_least=n == "forgetting") for n in still_open}
    if not excesses:
        still_open["excess"], needed["excess"] = "no probe was run", None
    if not reasons:
        reasons["undecided"] = [
            f"{name}: {why}{_more_facts(measured.get(name), needed[name])}" for name, why in still_open.items()
        ]
    return Verdict(
        labels=tuple(label for label in LABELS if label in reasons),
        reasons={label: "; ".join(reasons[label]) for label in LABELS if label in reasons},
        open=still_open,
        n_needed=needed,
        distance=distance_to_reliable(forgetting.value, destruction.value, [e.value for e in excesses.values()]),
        epsilon=epsilon,
    )


def distance_to_reliable(forgetting: float, destruction: float, excesses: list[float]) -> float:
    r"""Compute the distance of a method from forgetting everything, destroying nothing and hiding nothing.

    $\lVert (1 - F, \max(0, \max_p \mathrm{excess}_p), D) \rVert_2$; NaN if a part is undefined or no probe was run.
    Undefined probes are excluded if at least one is defined.
    """
    defined = [e for e in excesses if not math.isnan(e)]
    if not defined:
        return float("nan")
    return math.hypot(1 - forgetting, max(0.0, *defined), destruction)


def side(estimate: Estimate, threshold: float, *, at_least: bool = False) -> str | None:
    """Return on which side of a threshold the whole interval is: "above", "below", or None if it contains it.

    The threshold itself counts as below (`≤`), or with `at_least` as above (`≥`). None if the estimate is undefined. An
    estimate of a family is above by the interval that holds for the whole family, and below by its own.
    """
    return _side(estimate, estimate.n, threshold, at_least)


def _side(estimate: Estimate, n: int, threshold: float, at_least: bool) -> str | None:
    low, high = estimate.interval(n)[0], estimate.alone.interval(n)[1]
    if low > threshold or (at_least and low >= threshold):
        return "above"
    if high < threshold or (not at_least and high <= threshold):
        return "below"
    return None


def facts_to_decide(estimate: Estimate, threshold: float, *, at_least: bool = False) -> int | None:
    """Compute the smallest number of facts for which the interval would not contain the threshold.

    The value of the estimate and its design effect are kept. For example, zero events need 35 facts of one subject each
    to be at most 0.1, and twice as many at a design effect of 2.

    Returns:
        The number; None if no number up to a million is enough.
    """
    if estimate.n == 0:
        return None

    def decided(n: int) -> bool:
        return _side(estimate, n, threshold, at_least) is not None

    if not decided(MOST_FACTS):
        return None
    undecided_n, decided_n = 0, MOST_FACTS
    while decided_n - undecided_n > 1:
        middle = (undecided_n + decided_n) // 2
        if decided(middle):
            decided_n = middle
        else:
            undecided_n = middle
    return decided_n


def _more_facts(estimate: Estimate | None, needed: int | None) -> str:
    """Say how many more facts would decide an estimate; nothing if it is undefined."""
    if estimate is None or not estimate.n:
        return ""
    return "; no number of facts would decide" if needed is None else f"; {needed - estimate.n} more facts would decide"


def _why_open(estimate: Estimate, threshold: float) -> str:
    if estimate.n == 0:
        return "undefined: no facts to measure it on"
    return f"{estimate} contains {threshold:g}"
