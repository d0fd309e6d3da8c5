"""How much of the forget and the retain set is still known while training goes on: what early stopping looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unpact_lens.attribution import Attribution, attribute_many
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_right
from unpact_lens.models import hooked
from unpact_lens.models.generate import generate_answers
from unpact_lens.results import load, save
from unpact_lens.unlearning.result import History, StopRule
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


class Tracker:
    """Contributions of some facts while unlearning goes on: a trajectory of focus.

    Args:
        items: the facts to follow.
        every: steps between two looks.
        settings: chat template and prefill.
        directory: where looks are kept, so that a run taken up again has them; None keeps them in memory only.
    """

    def __init__(self, items: Sequence[QA], every: int, settings: Settings, directory: Path | None = None) -> None:
        if every < 1:
            raise InputError(f"track_every={every}; give a whole number of at least 1")
        self.items, self.every, self.settings, self.directory = tuple(items), every, settings, directory
        self.taken: dict[str, list[Attribution]] = {}

    def take(self, model: Any, step: int) -> None:
        """Attribute every fact under `model` as it stands after `step`."""
        key = str(step)
        chat, prefill = self.settings.chat, self.settings.prefill
        self.taken[key] = attribute_many(model, self.items, chat=chat, prefill=prefill, progress=False)
        if self.directory is not None:
            save(History(rows=(), trajectory={key: self.taken[key]}), self.directory / key)

    def resume(self, upto: int) -> None:
        """Read the looks that were taken up to a step, inclusive."""
        for folder in sorted((self.directory or Path()).glob("*"), key=lambda f: int(f.name)):
            if int(folder.name) <= upto:
                self.taken.update(load(folder).trajectory)


class Checks:
    """The scores that a stop rule watches, and what they say.

    Args:
        rule: at which levels to stop.
        scores: `forget_score` and `retain_score`, those that are to be taken.
        every: optimiser steps between two looks.
        tracker: follows contributions, at steps of its own.
    """

    def __init__(
        self, rule: StopRule, scores: Mapping[str, Score], every: int = 5, tracker: Tracker | None = None
    ) -> None:
        self.rule, self.scores, self.every, self.tracker = rule, dict(scores), every, tracker

    def due(self, step: int, steps: int) -> bool:
        """Whether anything is taken after `step` (0 is before the first)."""
        return step == steps or self._scores_due(step) or self._tracker_due(step)

    def _scores_due(self, step: int) -> bool:
        return bool(self.scores) and step % self.every == 0

    def _tracker_due(self, step: int) -> bool:
        return self.tracker is not None and step % self.tracker.every == 0

    def take(self, model: Any, step: int, last: bool = False) -> dict[str, float]:
        """Every score of `model` that is due, and its contributions where they are tracked.

        Never under autocast: what is scored is the weights as they are, and half precision turns what hides padding
        into minus infinity.
        """
        with torch.autocast(hooked.device_of(model).type, enabled=False):
            if self.tracker is not None and (last or self._tracker_due(step)):
                self.tracker.take(model, step)
            if not (last or self._scores_due(step)):
                return {}
            return {name: float(score(model)) for name, score in self.scores.items()}

    def verdict(self, taken: Mapping[str, float | int]) -> str | None:
        """Why to stop here, or None."""
        forget, retain = taken.get("forget_score"), taken.get("retain_score")
        if self.rule.forget is not None and forget is not None and forget <= self.rule.forget:
            return "forget level reached"
        if self.rule.retain is not None and retain is not None and retain < self.rule.retain:
            return "retain floor reached"
        return None
