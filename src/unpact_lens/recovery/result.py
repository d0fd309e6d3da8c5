"""Hold which facts each probe recovers, on one common set of facts, with the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError, nearest
from unpact_lens.results import Result, storable
from unpact_lens.stats.estimate import Contrast, Difference, Estimate, Rate
from unpact_lens.stats.paired import Outcomes, family_of_contrasts, paired_difference, simultaneous_differences
from unpact_lens.stats.tests import holm

EMPHASIS_FAMILY, CONTROL_FAMILY, PROBE_FAMILY = "emphasis", "control", "probe"

PARAPHRASE, UNRELATED, WRONG_SUBJECT, RANDOM_WORDS = "paraphrase", "unrelated", "wrong_subject", "random_words"
"""Names of the control rows. Random words have one row for each template: `"random_words:focus_list"`."""

UNRELATED_FACT = "unrelated_fact"
"""Control row of a patch, with the states of another fact's prompt: `"unrelated_fact:patch_prompt"`."""

OWN = (RANDOM_WORDS, UNRELATED_FACT, WRONG_SUBJECT)
"""Controls of one row each. Their rows are named by the control, a colon and that row."""

PREFILL, RELEARN = "prefill", "relearn"
"""Names of the probe rows in every default plan."""

AFTER_KEYS = "after_keys"
"""Emphasis on what is key to the unlearned model."""


def family_of(row: str) -> str:
    """Return the family of a row: `"emphasis"`, `"control"` or `"probe"`.

    >>> family_of("focus_list"), family_of("random_words:attention"), family_of("attention")
    ('emphasis', 'control', 'probe')
    """
    if row in EMPHASIS or row == AFTER_KEYS:
        return EMPHASIS_FAMILY
    return CONTROL_FAMILY if row in (PARAPHRASE, UNRELATED) or row.startswith(OWN) else PROBE_FAMILY


def own_control(rows: Sequence[str], probe: str) -> str | None:
    """Return the control row of one probe only, or None if there is none.

    >>> own_control(("attention", "random_words:attention"), "attention")
    'random_words:attention'
    """
    return next((row for kind in OWN if (row := f"{kind}:{probe}") in rows), None)


def stand_in_row(rows: Sequence[str], probe: str) -> str:
    """Return the row that replaces a missing retrained model: about another fact, by the same probe if there is one.

    >>> stand_in_row(("patch_prompt", "unrelated_fact:patch_prompt", "wrong_subject"), "patch_prompt")
    'unrelated_fact:patch_prompt'
    """
    elsewhere = (f"{UNRELATED_FACT}:{probe}", f"{WRONG_SUBJECT}:{probe}")
    return next((row for row in elsewhere if row in rows), WRONG_SUBJECT)


RETRAIN = "retrain"
"""Control that is a model and not a prompt: the retrained model under the same emphasis."""


@storable
@dataclass(frozen=True)
class Example:
    """Hold one fact under one prompt, with the answer.

    Attributes:
        id: Id of the fact.
        probe: Name of the row, or `"plain"`.
        prompt: Prompt.
        prefill: Answer prefix.
        generated: Generated answer.
        right: True if the answer holds the fact.
    """

    id: str
    probe: str
    prompt: str
    prefill: str
    generated: str
    right: bool


@dataclass(frozen=True, eq=False)
class Recovery(Result):
    """Hold which forgotten facts each row recovers: prompts, controls and further probes.

    Rates are taken over one *common set* of facts. The original model answers them under the plain prompt and under
    every compared row; the unlearned model does not answer them under the plain prompt. If the set is empty, rates are
    undefined (NaN), not 0.

    Attributes:
        probes: Name of each row: templates, controls, paraphrase, prefill, relearning and further probes.
        families: `"emphasis"`, `"control"` or `"probe"`, one for each row.
        items: Ids of the forget facts.
        subjects: Subject of each fact. Intervals are clustered by it.
        kinds: Kind of knowledge of each fact.
        asked: True if a row can be asked of a fact: it has a paraphrase, words are left to draw, it was not taught by
            relearning, and so on.
        compared: Rows under which the original model must be right for a fact to be in the common set.
        right_before: True if the original model gives the fact.
        right_after: True if the unlearned model gives the fact.
        right_control: True if the retrained model gives the fact. None without one.
        plain_before: The same as `right_before` under the plain prompt.
        plain_after: The same as `right_after` under the plain prompt.
        plain_control: The same as `right_control` under the plain prompt.
        excluded: Excluded facts with the reason: a prompt would give the answer away.
        set_apart: Excluded templates with the original model's rate, which is too low. They are not compared.
        oracle: True if KeyTokens were computed towards the gold answer (oracle-assisted), False if towards the model's
            own answer (answer-free).
        headline: Template chosen before the run.
        never_items: Ids of never-known facts: the original model answers them under no prompt. Their rate stands in for
            the retrained model's.
        never_subjects: Subject of each never-known fact. Empty if unknown: every fact is then its own subject.
        never_asked: The same as `asked` for the never-known facts.
        never_right: The same as `right_after` for the never-known facts.
        examples: Answers for a few facts under every row.
        settings: Rule, seed, templates, batch budget, hyperparameters of relearning and other options.
    """

    figure: ClassVar[str | None] = "recovery:recovery_bars"

    probes: tuple[str, ...]
    families: tuple[str, ...]
    items: tuple[str, ...]
    subjects: tuple[str, ...]
    kinds: tuple[str, ...]
    asked: Bool[Tensor, "probe item"]
    compared: tuple[str, ...]
    right_before: Bool[Tensor, "probe item"]
    right_after: Bool[Tensor, "probe item"]
    right_control: Bool[Tensor, "probe item"] | None
    plain_before: Bool[Tensor, " item"]
    plain_after: Bool[Tensor, " item"]
    plain_control: Bool[Tensor, " item"] | None
    excluded: dict[str, str]
    set_apart: dict[str, float]
    oracle: bool
    headline: str
    never_items: tuple[str, ...]
    never_asked: Bool[Tensor, "probe never"]
    never_right: Bool[Tensor, "probe never"]
    never_subjects: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def _brief(self) -> str:
        excesses = {probe: e for probe, e in self.excesses.items() if e.n}
        worst = max(excesses, key=lambda probe: excesses[probe].value, default=None)
        most = "no excess defined" if worst is None else f"largest excess {excesses[worst]} by {worst}"
        return f"{self.n_common} of {len(self.items)} facts, R {self.rate(self.headline)}, {most}"

    @property
    def common(self) -> Bool[Tensor, " item"]:
        """True for the common set: right before under the plain and all compared rows, wrong after under the plain."""
        kept = self.plain_before & ~self.plain_after
        kept = kept & ~torch.tensor([i in self.excluded for i in self.items], dtype=torch.bool)
        for name in self.compared:
            row = self._row(name)
            kept = kept & self.asked[row] & self.right_before[row]
        return kept

    @property
    def n_common(self) -> int:
        """Number of facts in the common set."""
        return int(self.common.sum())

    @property
    def controls(self) -> tuple[str, ...]:
        """Controls of the headline: its control rows, and the retrained model."""
        rows = [
            p
            for p, family in zip(self.probes, self.families, strict=True)
            if family == CONTROL_FAMILY and (":" not in p or p == f"{RANDOM_WORDS}:{self.headline}")
        ]
        return (*rows, *((RETRAIN,) if self.right_control is not None else ()))

    @property
    def stand_in(self) -> str | None:
        """Name of what replaces a missing retrained model. None if there is a retrained model."""
        if self.right_control is not None:
            return None
        wrong = any(
            p == WRONG_SUBJECT or p.startswith((f"{UNRELATED_FACT}:", f"{WRONG_SUBJECT}:")) for p in self.probes
        )
        names = ["wrong subject"] * wrong + ["never-known facts"] * bool(self.never_items)
        return " and ".join(names) or "nothing, so the excess is undefined"

    def rate(self, probe: str) -> Rate:
        """Compute R, the fraction of the common set that is right after unlearning under a row."""
        row = self._row(probe)
        return Rate.of(self.right_after[row], self.subjects, among=self.common & self.asked[row])

    def control_rate(self, probe: str) -> Rate:
        """Compute the retrained model's rate under a row, on the same facts as the unlearned model's.

        Raises:
            InputError: If there is no such row, or no retrained model was given.
        """
        row = self._row(probe)
        return Rate.of(self._control_row(row), self.subjects, among=self.common & self.asked[row])

    def net(self, control: str, template: str | None = None) -> Difference:
        """Compute net R of a template: its rate minus a control's, on the common set.

        Args:
            control: Name of a control row, `"random_words"` for that of the template, or `"retrain"`.
            template: Name of the template. If None, the headline.

        Raises:
            InputError: If there is no such row, or no retrained model was given.
        """
        template = template or self.headline
        row = self._row(template)
        if control == RETRAIN:
            other, asked = self._control_row(row), self.asked[row]
        else:
            other_row = self._row(f"{RANDOM_WORDS}:{template}" if control == RANDOM_WORDS else control)
            other, asked = self.right_after[other_row], self.asked[other_row]
        return self._paired(self.right_after[row], other, self.asked[row] & asked)

    @property
    def nets(self) -> dict[str, Difference]:
        """Net R of the headline against each of `controls`."""
        return {control: self.net(control) for control in self.controls}

    @property
    def net_p(self) -> dict[str, float | None]:
        """P-value of each of `nets` by the sign-flip test over subjects, Holm-adjusted over the controls."""
        return holm({control: net.p for control, net in self.nets.items()})

    @property
    def net_worst(self) -> tuple[str, Difference] | None:
        """Control with the smallest net R of the headline, and that net R. None if all are undefined."""
        defined = {c: d for c, d in self.nets.items() if d.n}
        worst = min(defined, key=lambda c: defined[c].value, default=None)
        return None if worst is None else (worst, defined[worst])

    def excess(self, probe: str) -> Contrast | Difference:
        """Compute the excess of a probe: its recovered rate minus the retrained model's under the same probe.

        Without a retrained model, the larger of two rates is subtracted: the rate at which the wrong subject gives the
        answer (for a patch, the states of an unrelated fact), and the rate of never-known facts under that probe. It is
        undefined if none of these rates is available. The interval is that of this probe alone; those of `excesses`
        hold for all probes together.

        Raises:
            InputError: If there is no such row.
        """
        row = self._row(probe)
        if self.right_control is not None:
            return self._paired(self.right_after[row], self.right_control[row], self.asked[row])
        standing_in: list[Contrast | Difference] = []
        if (elsewhere := stand_in_row(self.probes, probe)) in self.probes:
            wrong = self._row(elsewhere)
            standing_in.append(
                self._paired(self.right_after[row], self.right_after[wrong], self.asked[row] & self.asked[wrong])
            )
        if bool(self.never_asked[row].any()):
            standing_in.append(Contrast(self.rate(probe), self.never_rate(probe)))
        if not standing_in:
            return Contrast(self.rate(probe), Rate(0, 0))
        return min(standing_in, key=lambda e: e.value if e.n else float("inf"))

    @property
    def excess_probes(self) -> tuple[str, ...]:
        """Rows whose excess enters a verdict: compared emphasis, paraphrase and all probes."""
        return tuple(
            p
            for p, family in zip(self.probes, self.families, strict=True)
            if p not in self.set_apart and (family != CONTROL_FAMILY or p == PARAPHRASE)
        )

    @property
    def excesses(self) -> dict[str, Estimate]:
        """Excess of every row in `excess_probes`, with intervals that hold for all of them together.

        *hid* is a claim about the largest of many probes, so intervals and p-values are adjusted for all of them by the
        largest statistic. Without a retrained model, they are adjusted by Bonferroni and Holm. `alone` has a probe's
        own interval.
        """
        if self.right_control is None:
            return dict(family_of_contrasts({probe: self.excess(probe) for probe in self.excess_probes}))
        outcomes = {}
        for probe in self.excess_probes:
            row = self._row(probe)
            among = self.common & self.asked[row]
            outcomes[probe] = Outcomes(self.right_after[row], self.right_control[row], among)
        return dict(simultaneous_differences(outcomes, self.subjects))

    def never_rate(self, probe: str) -> Rate:
        """Compute the fraction of never-known facts that are right after unlearning under a row."""
        row = self._row(probe)
        return Rate.of(self.never_right[row], self.never_subjects or self.never_items, among=self.never_asked[row])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each probe: R with 95% CI and n, the control's rate, excess with 95% CI.

        `before` is the share of asked facts that the original model answers under that row. Intervals of `excess` hold
        for all probes together, and `excess p` is adjusted for all of them. `net` is the headline's rate minus that
        control's, and `p` its Holm-adjusted p-value.
        """
        nets, adjusted, excesses = self.nets, self.net_p, self.excesses
        rows = []
        for i, probe in enumerate(self.probes):
            rate = self.rate(probe)
            entry: dict[str, Any] = {
                "probe": probe, "family": self.families[i], "R": rate.value, "low": rate.low, "high": rate.high,
                "n": rate.n, "before": self._share(self.right_before[i], i),
            }  # fmt: skip
            if self.right_control is not None:
                entry["control"] = self.control_rate(probe).value
            else:
                entry["never known"] = self.never_rate(probe).value
            if probe in excesses:
                excess = excesses[probe]
                entry |= {
                    "excess": excess.value, "excess low": excess.low, "excess high": excess.high,
                    "excess p": excess.adjusted_p,
                }  # fmt: skip
            if probe in nets:
                net = nets[probe]
                entry |= {"net": net.value, "net low": net.low, "net high": net.high, "p": adjusted[probe]}
            rows.append(entry)
        if RETRAIN in nets:
            net = nets[RETRAIN]
            rows.append(
                {
                    "probe": RETRAIN, "family": CONTROL_FAMILY, "n": net.n, "net": net.value, "net low": net.low,
                    "net high": net.high, "p": adjusted[RETRAIN],
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def examples_frame(self) -> pd.DataFrame:
        """Return a table of the examples: fact, row, prompt, prefill, generated answer, and whether it is right."""
        columns = ["id", "probe", "prompt", "prefill", "generated", "right"]
        return pd.DataFrame([{c: getattr(e, c) for c in columns} for e in self.examples], columns=columns)

    def _row(self, probe: str) -> int:
        if probe not in self.probes:
            raise InputError(f"unknown probe {probe!r}; {nearest(probe, self.probes)}")
        return self.probes.index(probe)

    def _control_row(self, row: int) -> Tensor:
        if self.right_control is None:
            raise InputError("no retrained model was given; use recover(control=…)")
        return self.right_control[row]

    def _paired(self, first: Tensor, second: Tensor, asked: Tensor) -> Difference:
        return paired_difference(first, second, self.subjects, among=self.common & asked)

    def _share(self, right: Tensor, row: int) -> float:
        asked = self.asked[row]
        return float(right[asked].double().mean()) if bool(asked.any()) else float("nan")


def without_controls(frame: pd.DataFrame) -> list[str]:
    """Return the probes of a table with columns `probe` and `family`, in order, without controls.

    The excess of a control has no meaning. The paraphrase is kept, as it is a control of emphasis and a probe as well.
    """
    kept = (frame["family"] != CONTROL_FAMILY) | (frame["probe"] == PARAPHRASE)
    return list(dict.fromkeys(frame.loc[kept, "probe"]))
