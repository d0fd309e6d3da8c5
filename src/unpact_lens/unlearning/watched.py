"""Say what is scored and attributed during a run, and what is done with it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.unlearning.check import OnCheck
from unpact_lens.unlearning.early_stopping import Checks, FactsKnown, Score, StopRule, Tracker
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.keep_best import KeepBest

KEEPS = ("last", "best")
"""Values of `keep`; see `unlearn`."""


@dataclass(frozen=True)
class Watched:
    """Hold what is scored and attributed during training.

    Attributes:
        rule: When to stop.
        forget_score: The caller's score of the forget set, or None.
        retain_score: The caller's score of the retain set, or None.
        track: Facts whose contributions are attributed.
        track_every: Number of steps between two attributions.
        keep: One of `KEEPS`.

    Raises:
        InputError: If `keep` is not one of them.
    """

    rule: StopRule
    forget_score: Score | None
    retain_score: Score | None
    track: tuple[QA, ...]
    track_every: int
    keep: str = "last"

    def __post_init__(self) -> None:
        if self.keep not in KEEPS:
            raise InputError(f"keep={self.keep!r}; give {' or '.join(map(repr, KEEPS))}")

    def checks(
        self, job: Job, facts: Sequence[QA], kept: Sequence[QA], folder: Path | None, on_check: OnCheck | None
    ) -> Checks:
        """Return the checks of a run: the caller's scores, those that are needed, and the tracked facts.

        Args:
            job: The run.
            facts: Questions on what is to be forgotten.
            kept: Questions on what is to be kept.
            folder: Directory of the run's state, or None.
            on_check: The caller's function, or None. It gets F where there are known facts.

        Raises:
            InputError: If a score is needed and there are no questions, or the model knows none of the facts.
        """
        best = self.keep == "best"
        scores: dict[str, Score] = {}
        for name, given, level, items in (
            ("forget_score", self.forget_score, self.rule.forget, facts),
            ("retain_score", self.retain_score, self.rule.retain, kept),
        ):
            if given is not None:
                scores[name] = given
            elif level is not None or best:
                if not items:
                    wanted = 'keep="best" needs' if best else "stop_at watches"
                    raise InputError(f"{wanted} {name}, but there are no questions to score; give {name}=")
                scores[name] = FactsKnown(job.before, items, job.settings)
        if on_check is not None and "forget_score" not in scores and facts:
            with contextlib.suppress(InputError):  # If none is known, F is not defined.
                scores["forget_score"] = FactsKnown(job.before, facts, job.settings)
        tracker = None
        if self.track:
            tracker = Tracker(self.track, self.track_every, job.settings, folder and folder / "trajectory")
        keep = KeepBest(self.rule.forget, self.rule.retain) if best else None
        return Checks(self.rule, scores, job.settings.check_every, tracker, on_check, keep)
