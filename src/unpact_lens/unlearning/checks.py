"""How much of the forget and the retain set is still known while training goes on: what early stopping looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unpact_lens.data.qa import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_right
from unpact_lens.models.generate import generate_answers
from unpact_lens.unlearning.result import StopRule
from unpact_lens.unlearning.settings import Settings

Score = Callable[[Any], float]
"""From a model to a share, 0 to 1."""


class FactsKnown:
    """Share of facts that the model before answers right, and another model still does.

    An answer is right if its greedy text holds the fact (`evaluation.answers.fact_right`).

    Args:
        before: the model before unlearning; decides which facts count.
        items: the facts.
        settings: chat template, prefill, length of an answer.

    Raises:
        InputError: if the model before knows none of them.
    """

    def __init__(self, before: Any, items: Sequence[QA], settings: Settings) -> None:
        self.settings = settings
        self.items = tuple(items)
        right = self._right(before)
        self.items = tuple(q for q, known in zip(self.items, right, strict=True) if known)
        if not self.items:
            raise InputError(
                f"none of the {len(right)} facts is answered right before unlearning, so there is no level to stop at; "
                "leave stop_at out, or set chat= and prefill= as the facts are asked"
            )

    def __call__(self, model: Any) -> float:
        """The share of those facts that `model` answers right."""
        return sum(self._right(model)) / len(self.items)

    def _right(self, model: Any) -> list[bool]:
        answers = generate_answers(
            model,
            [q.prompt for q in self.items],
            chat=self.settings.chat,
            prefills=[self.settings.prefill.replace("{subject}", q.subject) for q in self.items],
            max_new_tokens=self.settings.max_new_tokens,
        )
        return [fact_right(a, q) for a, q in zip(answers, self.items, strict=True)]


class Checks:
    """The scores that a stop rule watches, and what they say.

    Args:
        rule: at which levels to stop.
        scores: `forget_score` and `retain_score`, those that are to be taken.
        every: optimiser steps between two looks.
    """

    def __init__(self, rule: StopRule, scores: Mapping[str, Score], every: int = 5) -> None:
        self.rule, self.scores, self.every = rule, dict(scores), every

    def due(self, step: int, steps: int) -> bool:
        """Whether scores are taken after `step` (0 is before the first)."""
        return bool(self.scores) and (step % self.every == 0 or step == steps)

    def take(self, model: Any) -> dict[str, float]:
        """Every score of `model`."""
        return {name: float(score(model)) for name, score in self.scores.items()}

    def verdict(self, taken: Mapping[str, float | int]) -> str | None:
        """Why to stop here, or None."""
        if self.rule.forget is not None and taken["forget_score"] <= self.rule.forget:
            return "forget level reached"
        if self.rule.retain is not None and taken["retain_score"] < self.rule.retain:
            return "retain floor reached"
        return None
