"""Stop training early, by scoring how much of the forget and the retain set is still known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import Parameter

from unpact_lens.attribution import Attribution, attribute_many
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_right, room_for
from unpact_lens.models import hooked
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import load, save, storable
from unpact_lens.unlearning.check import OnCheck, told
from unpact_lens.unlearning.keep_best import KeepBest
from unpact_lens.unlearning.option import Number
from unpact_lens.unlearning.result import History
from unpact_lens.unlearning.settings import Settings

Score = Callable[[HookedModel], float]
"""Function of a model to a share, 0 to 1."""


@storable
@dataclass(frozen=True)
class StopRule:
    """Define when to stop before the step budget is used up.

    Attributes:
        forget: Largest forget score (share of facts still known) at which to stop. If None, it is not watched.
        retain: Floor of the retain score; training stops below it. If None, it is not watched.

    Raises:
        InputError: If a level is outside 0 to 1.
    """

    forget: float | None = None
    retain: float | None = None

    def __post_init__(self) -> None:
        for name in ("forget", "retain"):
            level = Number(0, 1, optional=True).read(f"stop_at: {name} level", getattr(self, name))
            object.__setattr__(self, name, level)


class FactsKnown:
    """Score the share of the facts known to the original model that another model still knows.

    A fact is known if the greedy answer contains it (`evaluation.answers.fact_right`).

    Args:
        before: Original model; it decides which facts count.
        items: Facts.
        settings: Chat template, prefill and length of an answer.

    Raises:
        InputError: If the original model knows none of the facts.
    """

    def __init__(self, before: HookedModel, items: Sequence[QA], settings: Settings) -> None:
        self.settings = settings
        self.items = tuple(items)
        self.max_new_tokens = room_for(before, self.items, settings.max_new_tokens)
        right = self._right(before)
        self.items = tuple(q for q, known in zip(self.items, right, strict=True) if known)
        if not self.items:
            raise InputError(
                f"none of the {len(right)} facts is answered right before unlearning, so there is no level to stop at; "
                "leave stop_at out, or set chat= and prefill= as the facts are asked"
            )

    def __call__(self, model: HookedModel) -> float:
        """Return the share of those facts that `model` answers right."""
        return sum(self._right(model)) / len(self.items)

    def _right(self, model: HookedModel) -> list[bool]:
        """Return, for each fact, whether the model's greedy answer contains it."""
        answers = generate_answers(
            model,
            [q.prompt for q in self.items],
            chat=self.settings.chat,
            prefills=[self.settings.prefill.replace("{subject}", q.subject) for q in self.items],
            max_new_tokens=self.max_new_tokens,
            stop=self.settings.stop,
        )
        return [fact_right(a, q) for a, q in zip(answers, self.items, strict=True)]


class Tracker:
    """Attribute the contributions of some facts during training: a trajectory of focus.

    Args:
        items: Facts to follow.
        every: Number of steps between two attributions.
        settings: Chat template and prefill.
        directory: Directory where attributions are kept for a resumed run. If None, they are kept in memory only.

    Raises:
        InputError: If `every` is below 1.
    """

    def __init__(self, items: Sequence[QA], every: int, settings: Settings, directory: Path | None = None) -> None:
        if every < 1:
            raise InputError(f"track_every={every}; give a whole number of at least 1")
        self.items, self.every, self.settings, self.directory = tuple(items), every, settings, directory
        self.taken: dict[str, list[Attribution]] = {}

    def take(self, model: HookedModel, step: int) -> None:
        """Attribute every fact under `model` after `step`."""
        key = str(step)
        chat, prefill = self.settings.chat, self.settings.prefill
        self.taken[key] = attribute_many(model, self.items, chat=chat, prefill=prefill, progress=False)
        if self.directory is not None:
            save(History(rows=(), trajectory={key: self.taken[key]}), self.directory / key)

    def resume(self, upto: int) -> None:
        """Read the attributions kept up to a step, inclusive."""
        for folder in sorted((self.directory or Path()).glob("*"), key=lambda f: int(f.name)):
            if int(folder.name) <= upto:
                self.taken.update(load(folder).trajectory)


class Checks:
    """Take the scores that a stop rule reads, and decide when to stop.

    Args:
        rule: Levels at which to stop.
        scores: Score functions by name: `forget_score`, `retain_score`.
        every: Number of optimiser steps between two checks.
        tracker: Attributes tracked facts, at steps of its own.
        on_check: Function called at each check, which may stop the run.
        keep: Keeps the weights of the best check. If None, those of the last step are the result.
    """

    def __init__(
        self,
        rule: StopRule | None = None,
        scores: Mapping[str, Score] | None = None,
        every: int = 5,
        tracker: Tracker | None = None,
        on_check: OnCheck | None = None,
        keep: KeepBest | None = None,
    ) -> None:
        self.rule, self.scores, self.every, self.tracker = rule or StopRule(), dict(scores or {}), every, tracker
        self.on_check, self.keep = on_check, keep

    @property
    def trajectory(self) -> dict[str, list[Attribution]]:
        """Return the attributions of the tracked facts, by step."""
        return self.tracker.taken if self.tracker else {}

    def resume(self, upto: int) -> None:
        """Read the attributions of a run that is resumed after step `upto`."""
        if self.tracker is not None:
            self.tracker.resume(upto)

    def due(self, step: int, steps: int) -> bool:
        """Return whether anything is taken after `step`; 0 is before the first step."""
        return step == steps or self.scores_due(step, steps) or self._tracker_due(step)

    def scores_due(self, step: int, steps: int) -> bool:
        """Return whether there is a check after `step` of `steps`: scores, and a call of the caller's function."""
        watched = bool(self.scores) or self.on_check is not None
        return watched and (step == steps or step % self.every == 0)

    def _tracker_due(self, step: int) -> bool:
        return self.tracker is not None and step % self.tracker.every == 0

    def take(self, model: HookedModel, step: int, last: bool = False) -> dict[str, float]:
        """Take every score of `model` that is due, and attribute the tracked facts if that is due.

        Autocast is off: the weights are scored as they are, and half precision would turn the mask of the padding into
        minus infinity.
        """
        with torch.autocast(hooked.device_of(model).type, enabled=False):
            if self.tracker is not None and (last or self._tracker_due(step)):
                self.tracker.take(model, step)
            if not last and step % self.every:
                return {}
            return {name: float(score(model)) for name, score in self.scores.items()}

    def after(
        self, model: HookedModel, row: Mapping[str, float | int], steps: int, params: Mapping[str, Parameter]
    ) -> str | None:
        """Act on what was taken: keep the weights if they are the best, call the caller's function, decide.

        Args:
            model: Model in training.
            row: Row of the history, with the scores of this check.
            steps: Number of steps of the run.
            params: Trained weights.

        Returns:
            The reason to stop, or None.
        """
        said = None
        if self.scores_due(int(row["step"]), steps):
            if self.keep is not None and row["step"]:
                self.keep.see(row, params)
            if self.on_check is not None:
                with torch.autocast(hooked.device_of(model).type, enabled=False):
                    said = told(self.on_check, model, row, steps)
        return self.verdict(row) or said

    def verdict(self, taken: Mapping[str, float | int]) -> str | None:
        """Return the reason to stop after these scores, or None."""
        forget, retain = taken.get("forget_score"), taken.get("retain_score")
        if self.rule.forget is not None and forget is not None and forget <= self.rule.forget:
            return "forget level reached"
        if self.rule.retain is not None and retain is not None and retain < self.rule.retain:
            return "retain floor reached"
        return None
