"""Examine the result of a run: did the method act, do its predictions make sense, and what is forgotten?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import named_weights
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.same_weights import equal_numbers
from unpact_lens.models.tokens import Encoded
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning.dataset import Source
from unpact_lens.unlearning.early_stopping import FactsKnown, StopRule
from unpact_lens.unlearning.end_token import unexpected_end
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainer import Run

ROWS = 32
"""Number of forget examples whose predictions are compared."""

NOTHING, ENOUGH = 0.1, 0.9
"""F up to which a run is said to have forgotten nothing, and F below which it is said to have forgotten a part."""


@dataclass(frozen=True)
class Asked:
    """Hold what a result is examined with.

    Attributes:
        before: Model that the caller gave.
        forget: Forget set.
        rows: The same as token ids.
        facts: Forget questions; empty where there are none.
        settings: How they are asked.
        rule: Levels that were asked for.
        forget_score: Share of forget facts still known at the last check; None if never checked.
        trains: Whether the method trains step by step.
    """

    before: HookedModel
    forget: Source
    rows: list[Encoded]
    facts: tuple[QA, ...]
    settings: Settings
    rule: StopRule
    forget_score: float | None
    trains: bool


def acted(before: HookedModel, after: HookedModel, rows: list[Encoded]) -> bool:
    """Return whether a weight, or where models predict together a prediction, differs from the original model.

    Args:
        before: Original model.
        after: Result.
        rows: Examples whose predictions are compared.
    """
    if isinstance(after, CombinedModel):
        pairs = zip(score_rows(before, rows[:ROWS]), score_rows(after, rows[:ROWS]), strict=True)
        return any(not torch.equal(b, a) for b, a in pairs)
    start = named_weights(before)
    return any(n not in start or not equal_numbers(start[n], w) for n, w in named_weights(after).items())


def examine(method: str, model: HookedModel, run: Run, asked: Asked) -> tuple[float | None, tuple[str, ...]]:
    """Examine the result of a run.

    Args:
        method: Name of the method.
        model: Result.
        run: History, and the reason why the run ended.
        asked: Original model, forget set and stop rule.

    Returns:
        F, the share of the forget facts known to the original model that the result does not know (None if it cannot be
        measured), and what the user must know, a sentence each.

    Raises:
        InputError: If the method changed nothing although it had no reason to stop at once.
    """
    found: list[str] = []
    steps = max((int(row.get("step", 0)) for row in run.rows), default=0)
    broken = run.diverged
    if broken:
        found.append(f"training diverged: {run.stopped}; lower the lr")
    if not acted(asked.before, model, asked.rows):
        if not broken and not (run.stopped.endswith("reached") and steps == 0):
            raise InputError(
                f"method {method!r} changed nothing: after {steps} steps every weight and prediction is that of the "
                f"original model (lr={asked.settings.lr:g}); raise lr or steps, or check modules="
            )
        found.append("nothing was changed: the model is the original one")
    if not all(bool(s.isfinite().all()) for s in score_rows(model, asked.rows[:ROWS])):
        found.append("the model is broken: its predictions are not finite; lower the lr")
        return None, tuple(found)
    forgotten, said = share_forgotten(model, asked)
    return forgotten, (*found, *said)


def share_forgotten(model: HookedModel, asked: Asked) -> tuple[float | None, list[str]]:
    """Measure F, unless the last check did, and say where it is low.

    Args:
        model: Result.
        asked: Original model, forget set and stop rule.

    Returns:
        F or None, and the sentences.
    """
    known = asked.forget_score
    if known is None:
        if not asked.facts:
            return None, []
        try:
            known = FactsKnown(asked.before, asked.facts, asked.settings)(model)
        except InputError as error:
            return None, [f"F is not measured: {error}"]
    forgotten, level = 1 - known, asked.rule.forget
    if level is not None and known > level:
        said = f"misses the level asked for, {1 - level:.2f}; {remedy(asked)}"
    elif level is None and forgotten <= NOTHING:
        said = f"almost nothing is forgotten; {remedy(asked)}, or use tune()"
    elif level is None and forgotten < ENOUGH:
        said = f"only a part is forgotten; {remedy(asked)}, or use tune()"
    else:
        return forgotten, []
    return forgotten, [f"F = {forgotten:.2f}{' ' if level is not None else ': '}{said}"]


def remedy(asked: Asked) -> str:
    """Say what may make the method forget more."""
    if not asked.trains:
        return "change the hyperparameters of this method"
    end = unexpected_end(asked.before, asked.forget, asked.settings)
    if end is None:
        return "raise lr or steps"
    return (
        f"the model gives the end token {end:.1f} nats after these answers, and the loss can fall by that token alone: "
        "leave end_token out or give end_token=False, or raise lr or steps"
    )
