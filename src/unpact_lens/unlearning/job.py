"""Hold one unlearning run: what a method may prepare (`Job`), and what it needs to be carried out (`Plan`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning.adapters import Adapters
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.checkpointing import Checkpoints
from unpact_lens.unlearning.dataset import Source
from unpact_lens.unlearning.early_stopping import Checks
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainer import Options, Run, Term, UpdateRule, train


@dataclass
class Job:
    """Hold one run before training. A method's `prepare` may read all of it and change its data and hyperparameters.

    Attributes:
        given: Model that the caller passed.
        before: Model that is copied and trained, never changed itself. It differs from `given` where the method starts
            from another one, e.g. from several models that predict together.
        forget: Forget set.
        settings: Hyperparameters that all methods share.
        options: Hyperparameters of the method.
        seed: Random seed.
        data: Forget set as token ids.
    """

    given: HookedModel
    before: HookedModel
    forget: Source
    settings: Settings
    options: dict[str, Any]
    seed: int
    data: Examples

    def questions(self, needed_for: str = "this method needs questions with answers") -> Sequence[QA]:
        """Return the forget set as questions.

        Raises:
            InputError: If it is raw text. The message begins with `needed_for`.
        """
        if isinstance(self.forget, Corpus):
            raise InputError(f"{needed_for}, the forget set is raw text; give QA items")
        return self.forget


@dataclass(frozen=True)
class Plan:
    """Hold one run that is ready to be carried out.

    Attributes:
        job: Models, data and hyperparameters.
        after: Copy of `job.before` to be changed.
        terms: Objective with its data order.
        checks: Scores taken on the way, and the rule that stops training early.
        make_rule: Function of the copy and the options to what every update must do besides the loss.
        checkpoints: Saved states.
        on_step: Function called with the number of finished steps.
    """

    job: Job
    after: HookedModel
    terms: Sequence[Term]
    checks: Checks
    make_rule: Callable[[Any, Options], UpdateRule] | None
    checkpoints: Checkpoints | None
    on_step: Callable[[int], object]

    def train(self, settings: Settings, rule: UpdateRule | None) -> Run:
        """Train the copy with these hyperparameters and this update rule."""
        return train(
            self.after, self.terms, settings, self.checks,
            rule=rule, checkpoints=self.checkpoints, on_step=self.on_step,
        )  # fmt: skip


def train_copy(plan: Plan) -> Run:
    """Train the copy: its weights, or low-rank adapters that are merged into them afterwards."""
    settings, after = plan.job.settings, plan.after
    adapters = None
    if settings.rank is not None:
        adapters = Adapters(after, settings.modules, settings.rank, settings.lora_alpha, plan.job.seed)
        settings = dataclasses.replace(settings, modules=None)
    run = plan.train(settings, plan.make_rule(after, plan.job.options) if plan.make_rule else None)
    if adapters is not None:
        adapters.merge()
    return run
