"""Write the findings of an audit in plain words, each number with its 95% CI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpact_lens.data.emphasis import EMPHASIS
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
"""Names of quantities of the verdict for readers."""


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
    return _undecided(audit)


def _undecided(audit: Audit) -> str:
    """Say which quantities the intervals leave open, and how many more facts would decide them all."""
    left = audit.verdict.open
    parts = []
    if "forgetting" in left:
        parts.append(f"F is {percent(audit.forgetting)}")
    if "destruction" in left:
        parts.append(f"D is {percent(audit.destruction)}")
    if probes := [p for p in audit.excesses if f"excess of {p}" in left]:
        worst = max(probes, key=lambda p: audit.excesses[p].value if audit.excesses[p].n else -1.0)
        which = "the excess" if len(probes) == 1 else f"the excess of {len(probes)} probes, the largest of them"
        parts.append(f"{which} {under(worst)}, is {percent(audit.excesses[worst])}")
    if "excess" in left:
        parts.append("no probe was run")
    text = f"Undecided at tolerance {audit.verdict.epsilon:g}: {', '.join(parts)}."
    needed = more_facts(audit)
    numbers = [n for n in needed.values() if n is not None]
    if numbers and len(numbers) == len(needed):
        text += f" {max(numbers)} more facts would decide."
    return text


def more_facts(audit: Audit) -> dict[str, int | None]:
    """Return, for each open quantity, how many more facts would decide it at the present estimate.

    None if no number of facts would: the estimate equals its threshold, or is undefined.
    """
    counts = {"forgetting": audit.forgetting.n, "destruction": audit.destruction.n}
    counts |= {f"excess of {probe}": e.n for probe, e in audit.excesses.items()}
    return {
        what: None if needed is None else max(needed - counts.get(what, 0), 1)
        for what, needed in audit.verdict.n_needed.items()
    }


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


def what_would_change(audit: Audit) -> tuple[str, ...]:
    """State what would decide or change the verdict: facts, models and probes that were missing."""
    found = []
    for what, needed in more_facts(audit).items():
        text = f"{SHORT.get(what, what)}: {audit.verdict.open[what]}"
        found.append(text if needed is None else f"{text}; {needed} more fact{'s' * (needed != 1)} would decide")
    return (*found, *(f"{what}: {why}" for what, why in audit.left_out.items()))
