"""What the probes brought back, on one common set of facts, beside what the controls brought back."""

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
from unpact_lens.stats.bootstrap import paired_difference
from unpact_lens.stats.estimate import Contrast, Difference, Estimate, Rate
from unpact_lens.stats.tests import holm

EMPHASIS_FAMILY, CONTROL_FAMILY, PROBE_FAMILY = "emphasis", "control", "probe"

PARAPHRASE, UNRELATED, WRONG_SUBJECT, RANDOM_WORDS = "paraphrase", "unrelated", "wrong_subject", "random_words"
"""Names of the control rows; random words have one row a template: `"random_words:focus_list"`."""

UNRELATED_FACT = "unrelated_fact"
"""The control row of a patch: the same with the states of another fact's prompt: `"unrelated_fact:patch_prompt"`."""

OWN = (RANDOM_WORDS, UNRELATED_FACT, WRONG_SUBJECT)
"""Controls that follow one row each, under their name, a colon and that row's name."""

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
    """The control row that follows one row only; None where it has none.

    >>> own_control(("attention", "random_words:attention"), "attention")
    'random_words:attention'
    """
    return next((row for kind in OWN if (row := f"{kind}:{probe}") in rows), None)


def stand_in_row(rows: Sequence[str], probe: str) -> str:
    """The row that stands in for a retrain model: about something else, by the same probe where there is one.

    >>> stand_in_row(("patch_prompt", "unrelated_fact:patch_prompt", "wrong_subject"), "patch_prompt")
    'unrelated_fact:patch_prompt'
    """
    elsewhere = (f"{UNRELATED_FACT}:{probe}", f"{WRONG_SUBJECT}:{probe}")
    return next((row for row in elsewhere if row in rows), WRONG_SUBJECT)


RETRAIN = "retrain"
"""The control that is a model and not a prompt: the retrain model under the same emphasis."""


@storable
@dataclass(frozen=True)
class Example:
    """One fact under one prompt, as asked and as answered.

    Attributes:
        id: of the fact.
        probe: name of the row, or `"plain"`.
        prompt: what the model read.
        prefill: the opening of the answer that it was given.
        generated: what it answered.
        right: whether that holds the fact.
    """

    id: str
    probe: str
    prompt: str
    prefill: str
    generated: str
    right: bool


@dataclass(frozen=True, eq=False)
class Recovery(Result):
    """Which forgotten facts each prompt, and each probe beyond prompts, brings back.

    Rates are taken over one *common set* of facts: right before under the plain prompt and under every prompt that is
    compared, wrong after under the plain prompt. Where none remains, they are undefined (NaN), not 0.

    Attributes:
        probes: name of each row: templates, controls, paraphrase, prefill, relearn.
        families: `"emphasis"`, `"control"` or `"probe"`, one a row.
        items: ids of the forget facts.
        subjects: whom or what each is about; intervals cluster by it.
        kinds: kind of knowledge of each.
        asked: whether a row could be asked of a fact (there is a paraphrase, words are left to draw, the fact was held
            out of relearning, ...).
        compared: the rows under which the model before must be right for a fact to be in the common set.
        right_before: whether the model before gave the fact.
        right_after: whether the unlearned model did.
        right_control: whether the retrain model did; None without one.
        plain_before: under the plain prompt, the model before.
        plain_after: the unlearned model.
        plain_control: the retrain model.
        excluded: facts that no prompt may be counted for, and why: the prompt would give the answer away.
        set_apart: templates that the model before itself cannot answer under, with its rate: not compared.
        oracle: KeyTokens were computed towards the gold answer (oracle-assisted), not the model's own (answer-free).
        headline: the template chosen before the run.
        never_items: facts that the model before gets wrong however asked; their rate stands in for the retrain model's.
        never_asked: like `asked`, for them.
        never_right: like `right_after`, for them.
        examples: the first facts of the seed under every row.
        settings: rule, seed, templates, batch budget, relearning settings and the like.
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
    examples: tuple[Example, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def common(self) -> Bool[Tensor, " item"]:
        """The common set: right before under the plain and every compared prompt, wrong after under the plain one."""
        kept = self.plain_before & ~self.plain_after
        kept = kept & ~torch.tensor([i in self.excluded for i in self.items], dtype=torch.bool)
        for name in self.compared:
            row = self._row(name)
            kept = kept & self.asked[row] & self.right_before[row]
        return kept

    @property
    def n_common(self) -> int:
        """How many facts remain in the common set."""
        return int(self.common.sum())

    @property
    def controls(self) -> tuple[str, ...]:
        """What net R of the headline is taken against: the control rows asked of it, and the retrain model."""
        rows = [
            p
            for p, family in zip(self.probes, self.families, strict=True)
            if family == CONTROL_FAMILY and (":" not in p or p == f"{RANDOM_WORDS}:{self.headline}")
        ]
        return (*rows, *((RETRAIN,) if self.right_control is not None else ()))

    @property
    def stand_in(self) -> str | None:
        """What stands in for a retrain model where there is none; None where there is one."""
        if self.right_control is not None:
            return None
        return "wrong subject and never-known facts" if self.never_items else "wrong subject"

    def rate(self, probe: str) -> Rate:
        """R: the fraction of the common set that is right after, under a row."""
        row = self._row(probe)
        counted = self.common & self.asked[row]
        return Rate(int((self.right_after[row] & counted).sum()), int(counted.sum()))

    def net(self, control: str, template: str | None = None) -> Difference:
        """Net R of a template: its rate minus a control's, on the facts of the common set.

        Args:
            control: a row of controls, `"random_words"` for the one of that template, or `"retrain"`.
            template: the emphasis; None for the headline.

        Raises:
            InputError: if there is no such row, or no retrain model was given.
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
        """McNemar's p-value of each of `nets`, Holm-adjusted over the controls."""
        return holm({control: net.p for control, net in self.nets.items()})

    @property
    def net_worst(self) -> tuple[str, Difference] | None:
        """The control against which net R of the headline is least, and that net R; None where all are undefined."""
        defined = {c: d for c, d in self.nets.items() if d.n}
        worst = min(defined, key=lambda c: defined[c].value, default=None)
        return None if worst is None else (worst, defined[worst])

    def excess(self, probe: str) -> Estimate:
        """Excess of a probe: its recovered rate minus the retrain model's under that same probe.

        Without a retrain model, minus what stands in for it: the rate at which the wrong subject (for a patch, the
        states of an unrelated fact) gives the answer, or the rate at which never-known facts come out right under that
        probe, whichever is larger.
        """
        row = self._row(probe)
        if self.right_control is not None:
            return self._paired(self.right_after[row], self.right_control[row], self.asked[row])
        standing_in: list[Estimate] = []
        if (elsewhere := stand_in_row(self.probes, probe)) in self.probes:
            wrong = self._row(elsewhere)
            standing_in.append(
                self._paired(self.right_after[row], self.right_after[wrong], self.asked[row] & self.asked[wrong])
            )
        if bool(self.never_asked[row].any()):
            standing_in.append(Contrast(self.rate(probe), self.never_rate(probe)))
        if not standing_in:
            raise InputError(
                "excess needs a retrain model, a wrong subject or never-known facts; give recover(control=…) or a "
                "benchmark whose items have wrong_subject or whose `unknown` facts are not empty"
            )
        return min(standing_in, key=lambda e: e.value if e.n else float("inf"))

    @property
    def excess_probes(self) -> tuple[str, ...]:
        """The rows whose excess enters a verdict: emphasis that is compared, paraphrase, prefill, relearning."""
        return tuple(
            p
            for p, family in zip(self.probes, self.families, strict=True)
            if p not in self.set_apart and (family != CONTROL_FAMILY or p == PARAPHRASE)
        )

    @property
    def excesses(self) -> dict[str, Estimate]:
        """`excess` of every row that enters a verdict."""
        return {probe: self.excess(probe) for probe in self.excess_probes}

    def never_rate(self, probe: str) -> Rate:
        """The fraction of never-known facts that are right after, under a row."""
        row = self._row(probe)
        asked = self.never_asked[row]
        return Rate(int((self.never_right[row] & asked).sum()), int(asked.sum()))

    def to_frame(self) -> pd.DataFrame:
        """One row a probe: R with its interval and n, the control's and never-known facts' rate, excess with interval.

        `before` is how often the model before is right under that row among all facts that it was asked of; `net` is
        the headline's rate minus that control's, `p` its Holm-adjusted p-value.
        """
        nets, adjusted = self.nets, self.net_p
        rows = []
        for i, probe in enumerate(self.probes):
            rate = self.rate(probe)
            entry: dict[str, Any] = {
                "probe": probe, "family": self.families[i], "R": rate.value, "low": rate.low, "high": rate.high,
                "n": rate.n, "before": self._share(self.right_before[i], i),
            }  # fmt: skip
            if self.right_control is not None:
                counted = self.common & self.asked[i]
                entry["control"] = Rate(int((self.right_control[i] & counted).sum()), int(counted.sum())).value
            else:
                entry["never known"] = self.never_rate(probe).value
            if probe in self.excess_probes:
                excess = self.excess(probe)
                entry |= {"excess": excess.value, "excess low": excess.low, "excess high": excess.high}
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
        """The examples: fact, row, prompt, prefill, what was generated, whether it is right."""
        columns = ["id", "probe", "prompt", "prefill", "generated", "right"]
        return pd.DataFrame([{c: getattr(e, c) for c in columns} for e in self.examples], columns=columns)

    def _row(self, probe: str) -> int:
        if probe not in self.probes:
            raise InputError(f"unknown probe {probe!r}; {nearest(probe, self.probes)}")
        return self.probes.index(probe)

    def _control_row(self, row: int) -> Tensor:
        if self.right_control is None:
            raise InputError("no retrain model was given; use recover(control=…)")
        return self.right_control[row]

    def _paired(self, first: Tensor, second: Tensor, asked: Tensor) -> Difference:
        seed = int(self.settings.get("seed", 0))
        return paired_difference(first, second, self.subjects, among=self.common & asked, seed=seed)

    def _share(self, right: Tensor, row: int) -> float:
        asked = self.asked[row]
        return float(right[asked].double().mean()) if bool(asked.any()) else float("nan")


def without_controls(frame: pd.DataFrame) -> list[str]:
    """The probes of a table with columns `probe` and `family`, in order, but for controls, whose excess says nothing.

    A paraphrase is a control of emphasis and a probe as well: it stays.
    """
    kept = (frame["family"] != CONTROL_FAMILY) | (frame["probe"] == PARAPHRASE)
    return list(dict.fromkeys(frame.loc[kept, "probe"]))
