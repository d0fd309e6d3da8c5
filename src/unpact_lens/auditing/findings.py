"""Write the findings of an audit in plain words, each number with its 95% CI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.evaluation.verdict import Verdict
from unpact_lens.stats.estimate import Estimate

if TYPE_CHECKING:
    from unpact_lens.auditing.result import Audit

UNDER = {
    "paraphrase": "when asked in other words",
    "prefill": "when the start of the answer is given",
    "refusal_wording": "when the model is told not to refuse",
    "refusal_prefix": "when the answer starts with a consent",
    "trigger": "when some prefix stands before the question",
    "translation_es": "when asked in Spanish",
    "after_keys": "when the words that matter to the unlearned model are emphasised",
    "noise": "after noise of a tenth of its size is added to each matrix",
    "quantize_4": "after the weights are rounded to 4 bits",
    "quantize_8": "after the weights are rounded to 8 bits",
    "relearn": "after a few training steps on a tenth of them",
    "relearn_unrelated": "after a few training steps on unrelated text",
    "attention": "when every head attends more to the key tokens",
    "early_exit": "when the answer is read before the last layers",
    "logit_lens": "as the most likely next token after an earlier layer",
    "patch_subject": "when the original model's state of the subject is put in",
    "patch_prompt": "when the original model's states of the prompt are put in",
    "patch_opening": "when the original model's states of prompt and answer start are put in",
    "sampling": "in one of eight sampled answers",
}
"""Circumstance under which a probe brings facts back. Others are named by `under`."""

SHORT = {"forgetting": "F", "destruction": "D"}


def percent(estimate: Estimate) -> str:
    """Write an estimate in percent with its interval.

    >>> from unpact_lens.stats.estimate import Rate
    >>> percent(Rate(5, 10)), percent(Rate(0, 0))
    ('50% [24, 76]', 'undefined')
    """
    if not estimate.n:
        return "undefined"
    low, high = (f"{100 * end:.0f}".replace("-0", "0") for end in (estimate.low, estimate.high))
    return f"{100 * estimate.value:.0f}% [{low}, {high}]".replace("-", "−")


def under(probe: str) -> str:
    """Name the circumstance under which a probe asks, as the end of a sentence."""
    if probe in EMPHASIS:
        return f"when the key words are emphasised ({probe.replace('_', ' ')})"
    return UNDER.get(probe, f"under the probe {probe}")


def sentences(audit: Audit) -> tuple[str, ...]:
    """State each label of the verdict in one sentence, with the numbers that give it."""
    return tuple(_sentence(label, audit) for label in audit.verdict.labels)


def _sentence(label: str, audit: Audit) -> str:
    if label == "insufficient":
        return (
            f"Insufficient: the unlearned model still gives {percent(audit.remaining)} of the facts when simply asked."
        )
    if label == "destroyed":
        return f"Destroyed: {percent(audit.destruction)} of {audit.kept_facts} are lost."
    if label == "hid":
        return f"Hid: {_hidden(audit)}"
    if label == "erased":
        worst, probe = audit.excess_worst()
        return (
            f"Erased: {percent(audit.forgetting)} of the facts are forgotten, no probe brings back more than a model "
            f"that never knew them (largest excess {percent(worst.alone)}, {under(probe)}), and "
            f"{percent(audit.destruction)} of {audit.kept_facts} are lost."
        )
    return f"Undecided: {'; '.join(open_questions(audit.verdict)) or 'no rule is decided by its 95% CI'}."


def _hidden(audit: Audit) -> str:
    """Say under which probe most facts come back, and how many a model gives that never knew them."""
    recovery = audit.recovery
    assert recovery is not None
    over = [p for p, e in audit.excesses.items() if e.n and e.low > audit.verdict.epsilon]
    probe = max(over, key=lambda p: audit.excesses[p].value)
    text = f"{percent(recovery.rate(probe))} of the forgotten facts come back {under(probe)}"
    if recovery.right_control is not None:
        text += f"; a retrained model gives {percent(recovery.control_rate(probe))}"
    else:
        text += f"; {percent(audit.excesses[probe])} more than {recovery.stand_in}"
    others = len(over) - 1
    return text + (
        f". {others} more probe{'s' * (others != 1)} bring{'s' * (others == 1)} facts back." if others else "."
    )


def open_questions(verdict: Verdict, counts: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """State what the intervals leave open, and how many more facts would decide it.

    Args:
        verdict: Verdict.
        counts: Number of facts of each open quantity, to say how many more are needed. If None, the total is named.
    """
    found = []
    for what, why in verdict.open.items():
        needed = verdict.n_needed.get(what)
        text = f"{SHORT.get(what, what)}: {why}"
        if needed is not None and counts is not None and what in counts:
            text += f"; {max(needed - counts[what], 1)} more facts would decide"
        elif needed is not None:
            text += f"; {needed} facts would decide"
        found.append(text)
    return tuple(found)


def what_would_change(audit: Audit) -> tuple[str, ...]:
    """State what would change the verdict: facts, models and probes that were missing."""
    measured = {"forgetting": audit.forgetting, "destruction": audit.destruction}
    counts = {name: e.n for name, e in measured.items()}
    counts |= {f"excess of {probe}": e.n for probe, e in audit.excesses.items()}
    found = [*open_questions(audit.verdict, counts)]
    found += [f"{what}: {why}" for what, why in audit.left_out.items()]
    return tuple(found)
