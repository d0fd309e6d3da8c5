"""Hold one unlearning run: what a method may prepare (`Job`), and what it needs to be carried out (`Plan`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.shared_weights import share
from unpact_lens.unlearning.adapters import keeps_adapters, trained_adapters
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.checkpointing import Checkpoints
from unpact_lens.unlearning.dataset import Source
from unpact_lens.unlearning.early_stopping import Checks
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainer import GradientRule, Run, Term, UpdateRule, train


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
        rehearsal: Questions that the original model wrote and answered itself, where the method asks for them.
        written: The same as token ids.
        retain: Retain set, or None.
    """

    given: HookedModel
    before: HookedModel
    forget: Source
    settings: Settings
    options: dict[str, Any]
    seed: int
    data: Examples
    rehearsal: tuple[QA, ...] = ()
    written: Examples | None = None
    retain: Source | None = None

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
        after: Copy of `job.before` to be changed, made by `copy_to_train`.
        terms: Objective with its data order.
        checks: Scores taken on the way, and the rule that stops training early.
        make_rule: Function of the copy and the job to what every update must do besides the loss.
        make_combine: Function of the job to how the gradient of a step is formed.
        checkpoints: Saved states.
        on_step: Function called with the number of finished steps.
    """

    job: Job
    after: HookedModel
    terms: Sequence[Term]
    checks: Checks
    make_rule: Callable[[Any, Job], UpdateRule] | None
    make_combine: Callable[[Job], GradientRule] | None
    checkpoints: Checkpoints | None
    on_step: Callable[[int], object]

    def train(self, settings: Settings, rule: UpdateRule | None) -> Run:
        """Train the copy with these hyperparameters and this update rule."""
        combine = self.make_combine(self.job) if self.make_combine else None
        return train(
            self.after, self.terms, settings, self.checks,
            rule=rule, combine=combine, checkpoints=self.checkpoints, on_step=self.on_step,
        )  # fmt: skip


def copy_to_train(job: Job) -> HookedModel:
    """Return the copy that a run changes: on a bridge with a rank, one that shares the weights and gets adapters."""
    return share(job.before) if keeps_adapters(job.before, job.settings.rank) else clone(job.before)


def train_copy(plan: Plan) -> Run:
    """Train the copy: its weights, or low-rank adapters.

    On a bridge, adapters stay apart from the weights. On a `HookedTransformer`, they are merged into them afterwards.
    """
    with trained_adapters(plan.after, plan.job.settings, plan.job.seed) as settings:
        return plan.train(settings, plan.make_rule(plan.after, plan.job) if plan.make_rule else None)
