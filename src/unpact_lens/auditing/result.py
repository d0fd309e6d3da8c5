"""Hold a finished audit: the verdict in plain words, and every measurement behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from unpact_lens.auditing.findings import percent, sentences, what_would_change
from unpact_lens.auditing.given_model import AFTER, CONTROL, Origin
from unpact_lens.comparison.diff import ModelDiff
from unpact_lens.comparison.focus import Focus
from unpact_lens.comparison.patching_map import PatchingMap
from unpact_lens.comparison.unlearning_depth import UnlearningDepth
from unpact_lens.display import joined
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import Verdict
from unpact_lens.recovery.result import Recovery
from unpact_lens.results import Result
from unpact_lens.stats.estimate import Estimate, Rate, lost
from unpact_lens.stats.paired import paired_difference

if TYPE_CHECKING:
    from unpact_lens.attribution import Attribution
    from unpact_lens.study.result import Study

GENERAL, GIVEN = "general facts that this package ships", "the unseen facts to keep"
"""What destruction is measured on."""


@dataclass(frozen=True, eq=False)
class Audit(Result):
    """Hold the audit of an unlearned model that this toolkit need not have made.

    Attributes:
        name: Name of the audited model.
        budget: Name of the budget.
        models: Origin of each model, by role: `after`, `before`, `control`.
        counts: Number of facts of each group: `forget` (known and asked), `unknown` (not known by the original model,
            excluded), `retain` and `unseen`.
        scores: Scores of each model, by role.
        recovery: What emphasis, controls and probes recover. None if nothing could be asked.
        focus: Contributions of the prompt tokens before and after, on forget facts. None without an original model.
        focus_kept: The same on facts to keep.
        diffs: Exact diffs of the first forget facts.
        depth: Unlearning Depth Score. None without an original and a retrained model.
        grafts: Answer log-probability with each layer of the original model grafted in.
        contributions: Contributions under each model, by role, where `focus` is not defined.
        verdict: Insufficient, hid, destroyed, erased or undecided.
        kept_facts: What destruction is measured on.
        left_out: Reason for each part that was not run.
        notes: What a reader must know.
        settings: Budget, seed, way of asking, command and what else the numbers depend on.
        data: Name and SHA-256 of the facts.
        seconds: Wall time of each part that was run, in seconds.
        environment: Versions, number of threads and hash of the package's source.
    """

    figure: ClassVar[str | None] = "audit_card:audit_plane"
    view: ClassVar[str | None] = "audit_card:audit_card"

    name: str
    budget: str
    models: dict[str, Origin]
    counts: dict[str, int]
    scores: dict[str, Scores]
    recovery: Recovery | None
    focus: Focus | None
    focus_kept: Focus | None
    diffs: tuple[ModelDiff, ...]
    depth: UnlearningDepth | None
    grafts: tuple[PatchingMap, ...]
    verdict: Verdict
    kept_facts: str = GIVEN
    contributions: dict[str, tuple[Attribution, ...]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    environment: dict[str, object] = field(default_factory=dict)

    @property
    def forgetting(self) -> Estimate:
        """F: share of the facts known before that are not known after. Undefined without an original model."""
        scores = self.scores[AFTER]
        return Rate(0, 0) if scores.values_before is None else scores.forgetting

    @property
    def remaining(self) -> Estimate:
        """Share of the forget facts that the unlearned model gives under the plain prompt."""
        scores = self.scores[AFTER]
        if scores.values_before is None:
            return Rate.of(scores.right, scores.subjects, among=scores.among("forget"))
        return Rate.of(scores.right, scores.subjects, among=scores.right_before & scores.among("forget"))

    @property
    def destruction(self) -> Estimate:
        """D on unseen facts.

        Without an original model, relative to the retrained model. Undefined without both.
        """
        return destruction_of(self.scores)

    @property
    def destruction_trained(self) -> Estimate:
        """D on the facts that the unlearner is known to have seen; undefined without them."""
        scores = self.scores[AFTER]
        return Rate(0, 0) if scores.values_before is None else scores.destruction_trained

    @cached_property
    def excesses(self) -> dict[str, Estimate]:
        """Excess of every probe, with intervals that hold for all of them together."""
        return {} if self.recovery is None else self.recovery.excesses

    def excess_worst(self) -> tuple[Estimate, str]:
        """Return the largest excess of any probe, and the name of that probe."""
        defined = {probe: e for probe, e in self.excesses.items() if e.n}
        probe = max(defined, key=lambda p: defined[p].value, default="")
        return (defined[probe], probe) if probe else (Rate(0, 0), "")

    def sentences(self) -> tuple[str, ...]:
        """Return the verdict in plain words, one sentence for each label."""
        return sentences(self)

    def what_would_change(self) -> tuple[str, ...]:
        """Return what would change the verdict: more facts, and models or probes that were missing."""
        return what_would_change(self)

    def measures(self) -> dict[str, Estimate]:
        """Return every quantity of the verdict by name."""
        worst, _ = self.excess_worst()
        return {
            "F": self.forgetting,
            "remaining": self.remaining,
            "D": self.destruction,
            "D_trained": self.destruction_trained,
            "excess": worst,
            **{f"excess[{probe}]": e for probe, e in self.excesses.items()},
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each quantity: value, 95% CI, number of facts.

        Recovered shares are named `R[probe]`, and those of the retrained model `control[probe]`.
        """
        rows = [{"measure": name, **_row(e)} for name, e in self.measures().items()]
        recovery = self.recovery
        if recovery is not None:
            rows += [{"measure": f"R[{p}]", **_row(recovery.rate(p))} for p in recovery.probes]
            if recovery.right_control is not None:
                rows += [{"measure": f"control[{p}]", **_row(recovery.control_rate(p))} for p in recovery.excess_probes]
        for role, scores in self.scores.items():
            rows.append({"measure": f"perplexity[{role}]", "value": scores.perplexity, "n": len(scores.text_nll)})
        return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "n"])

    def summary(self) -> pd.DataFrame:
        """Return one row for reading, with intervals in the cells."""
        excess, probe = self.excess_worst()
        return pd.DataFrame(
            [
                {
                    "model": self.name,
                    "verdict": str(self.verdict),
                    "F forgot": percent(self.forgetting),
                    "D destroyed": percent(self.destruction),
                    "excess (probe)": f"{percent(excess)} {probe}".strip(),
                    "distance": self.verdict.distance,
                }
            ]
        )

    def as_study(self) -> Study:
        """Return the audit as a study with one cell, for the report and the dilemma plane."""
        from unpact_lens.auditing.as_study import as_study

        return as_study([self], f"Audit of {self.name}")

    def _brief(self) -> str:
        worst, probe = self.excess_worst()
        return joined(
            [self.name, str(self.verdict), f"F {self.forgetting}", f"D {self.destruction}", f"excess {worst} {probe}"]
        )

    def headline(self) -> str:
        """Return the verdict of this model in plain words."""
        return f"{self.name}: {' '.join(self.sentences())}"


def destruction_of(scores: Mapping[str, Scores]) -> Estimate:
    """Return D of the unlearned model on unseen facts, relative to the original or else the retrained model."""
    after, control = scores[AFTER], scores.get(CONTROL)
    if after.values_before is not None:
        return after.destruction
    if control is None:
        return Rate(0, 0)
    return lost(control.right & after.among("retain"), after.right, after.subjects)


def remaining_excess(after: Scores, control: Scores | None) -> Estimate:
    """Return the share of forget facts that the unlearned model gives beyond the retrained model, if there is one."""
    asked = after.among("forget")
    if control is None:
        return Rate.of(after.right, after.subjects, among=asked)
    return paired_difference(after.right, control.right, after.subjects, among=asked)


def _row(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
