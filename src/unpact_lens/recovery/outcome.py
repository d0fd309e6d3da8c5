"""What one model answers to a plan: plain, under every prompt, and after relearning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.probes.relearn import relearned
from unpact_lens.recovery.result import RELEARN, Example
from unpact_lens.recovery.sheet import Sheet, ask_sheet, plain_sheet


@dataclass(frozen=True)
class Outcome:
    """What one model gave.

    Attributes:
        plain: which facts are right under the plain prompt.
        right: under every row; relearning in the last one if it is a probe. False where nothing was asked.
        never: the same for the never-known facts.
        examples: the answers for the facts that are shown.
        taught_right: share of the taught facts that are right after relearning; None without it.
    """

    plain: Bool[Tensor, " item"]
    right: Bool[Tensor, "probe item"]
    never: Bool[Tensor, "probe never"]
    examples: tuple[Example, ...]
    taught_right: float | None


def outcome_of(model: Any, plan: RecoveryPlan, batch_tokens: int, *, skip_right: bool = False) -> Outcome:
    """Ask one model the prompts of the plan that count, and relearn it.

    Beyond the plain prompt only facts that can be in the common set are asked, and those that are shown.

    Args:
        model: a hooked model; it is not changed.
        plan: the plan.
        batch_tokens: bound on the tokens of one batch.
        skip_right: leave out facts that this model gives under the plain prompt: they are in no common set of its own.
    """
    bench, sheet, never = plan.bench, plan.sheet, plan.never_sheet
    questions = plain_sheet(sheet.items, bench)
    plain, said = ask_sheet(model, questions, questions.asked, bench, batch_tokens)
    counted = plan.candidates & ~plain[0] if skip_right else plan.candidates
    shown = _shown(plan)
    wanted = counted.clone()
    wanted[shown] = True
    right, answers = ask_sheet(model, sheet, wanted.expand(len(sheet.rows), -1), bench, batch_tokens)
    never_right, _ = ask_sheet(model, never, never.asked, bench, batch_tokens)
    examples = [e for c in shown for e in _examples(questions, said, plain, c) + _examples(sheet, answers, right, c)]
    if plan.relearn is None:
        return Outcome(plain[0], right, never_right, tuple(examples), None)

    taught = [q for q, t in zip(sheet.items, plan.taught.tolist(), strict=True) if t]
    again = relearned(model, taught, bench, seed=plan.settings["seed"], **plan.relearn)
    questions, never_questions = (plain_sheet(items, bench, RELEARN) for items in (sheet.items, never.items))
    after, said = ask_sheet(again, questions, (wanted | plan.taught)[None], bench, batch_tokens)
    never_after, _ = ask_sheet(again, never_questions, never_questions.asked, bench, batch_tokens)
    examples += [e for c in shown for e in _examples(questions, said, after, c)]
    return Outcome(
        plain=plain[0],
        right=torch.cat([right, after & ~plan.taught]),
        never=torch.cat([never_right, never_after]),
        examples=tuple(examples),
        taught_right=float(after[0][plan.taught].double().mean()),
    )


def _examples(sheet: Sheet, answers: Mapping[tuple[int, int], str], right: Tensor, column: int) -> list[Example]:
    return [
        Example(sheet.items[c].id, sheet.rows[r], sheet.prompts[r][c], sheet.prefills[r][c], text, bool(right[r, c]))
        for (r, c), text in answers.items()
        if c == column
    ]


def _shown(plan: RecoveryPlan) -> list[int]:
    """The first facts in the seed's order."""
    generator = torch.Generator().manual_seed(plan.settings["seed"])
    return torch.randperm(len(plan.sheet.items), generator=generator)[: plan.settings["n_examples"]].tolist()
