"""Train every gradient method with one loop.

A step, in the order of the code: set the learning rate; for each term (forget, retain), accumulate the gradient over
micro-batches; let the bounds and the method edit the gradient; clip it; take an AdamW step; restore the constraints on
the weights; score the model and save the state where these are due. Token losses are means over all answer tokens of
the step's batch, sequence losses means over its examples. Half-precision weights are updated through fp32 copies
(`MasterWeights`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tied_embedding import TiedEmbedding
from unpact_lens.unlearning.batch import Examples, View
from unpact_lens.unlearning.bounds import Bounds
from unpact_lens.unlearning.checkpointing import Checkpoints
from unpact_lens.unlearning.early_stopping import Checks
from unpact_lens.unlearning.master_weights import MasterWeights
from unpact_lens.unlearning.optimiser import adamw
from unpact_lens.unlearning.precision import economical
from unpact_lens.unlearning.settings import Settings, schedule_factor
from unpact_lens.unlearning.trainable import only_these_train, trainable

Options = Mapping[str, Any]
"""Hyperparameters of one method, by name."""

Loss = Callable[[View, Options], Tensor]
"""Function of a batch and the method's hyperparameters to a scalar to minimise."""

Row = dict[str, float | int]
"""One row of a history."""


@dataclass(frozen=True)
class Term:
    """Hold one summand of the objective.

    Attributes:
        name: Column of this term in the history: `"forget"` or `"retain"`.
        loss: Loss function of a batch and `options`.
        per: Unit that the loss is a mean over. It decides how micro-batches are weighted.
        weight: Factor of the term, gamma or alpha.
        data: Training examples.
        order: Indices of the examples that each step reads.
        options: Hyperparameters of the method, passed to `loss`.
    """

    name: str
    loss: Loss
    per: Literal["token", "example"]
    weight: float
    data: Examples
    order: Int[Tensor, "step batch"]
    options: Options = field(default_factory=dict)


@runtime_checkable
class UpdateRule(Protocol):
    """Define what a method does to every update besides its loss."""

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Change gradients in place, after they are complete and before they are clipped."""

    def settle(self) -> None:
        """Restore, after the update, the constraints that the weights must satisfy."""


@dataclass(frozen=True)
class StepBatch:
    """Hold what the gradient of one step is computed from.

    Attributes:
        model: Model being trained.
        terms: Objective.
        step: Number of the step, from 0.
        micro_batch: Number of examples in one forward pass, or None for the whole batch.
        weights: Weights to be updated.
        tied: Copies of tied embeddings.
        scale: Factor of the loss, which is divided out afterwards.
    """

    model: HookedModel
    terms: Sequence[Term]
    step: int
    micro_batch: int | None
    weights: MasterWeights
    tied: TiedEmbedding
    scale: float = 1.0

    def term(self, name: str) -> Term:
        """Return the term of that name."""
        return next(term for term in self.terms if term.name == name)

    def add(self, term: Term, weight: float | None = None) -> float:
        """Add the gradient of one term to the gradients of the weights.

        Args:
            term: Term of the objective.
            weight: Factor in place of the term's own.

        Returns:
            The unweighted value of the term on the batch of this step.
        """
        factor = self.scale * (term.weight if weight is None else weight)
        total = 0.0
        for part, share in micro_batches(term, self.step, self.micro_batch):
            loss = term.loss(View(self.model, term.data, part), term.options)
            (factor * share * loss).backward()
            self.weights.collect()
            total += share * float(loss.detach())
        return total

    def distinct(self) -> list[Parameter]:
        """Return the weights to be updated, without the second copies of tied ones."""
        return self.tied.distinct(self.weights.params)

    def write(self) -> None:
        """Give the model the values of the weights to be updated."""
        self.tied.copy_weight()
        self.weights.write()
        # Autocast caches half-precision weights; clear the cache so the next forward pass sees the new values.
        torch.clear_autocast_cache()


@runtime_checkable
class GradientRule(Protocol):
    """Define how a method forms the gradient of a step from those of its terms, where it is not their weighted sum."""

    def gather(self, batch: StepBatch) -> dict[str, float]:
        """Leave the gradient of the step in the weights.

        Returns:
            The unweighted value of each term by name, and further columns of the history.
        """

    def resume(self, rows: Sequence[Row]) -> None:
        """Restore the rule's state from the history of a run that goes on."""


@dataclass
class Run:
    """Hold the progress of a training run.

    Attributes:
        rows: History so far, one row for each step.
        stopped: Reason why training ended.
        model: Resulting model, where it is not the copy that was trained.
        diverged: Whether a value was not finite, so that earlier weights were restored.
        kept: Step whose weights the model has, where they are those of the best check and not the last ones.
    """

    rows: list[Row] = field(default_factory=list)
    stopped: str = "step budget used up"
    model: HookedModel | None = None
    diverged: bool = False
    kept: int | None = None


def train(
    model: HookedModel,
    terms: Sequence[Term],
    settings: Settings,
    checks: Checks | None = None,
    *,
    rule: UpdateRule | None = None,
    combine: GradientRule | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[int], object] = lambda step: None,
) -> Run:
    """Train `model` in place.

    Args:
        model: Copy to be changed.
        terms: Objective. Each term holds its data order, whose length is the number of steps.
        settings: Hyperparameters of optimiser, schedule and micro-batches.
        checks: Scores taken on the way, and the rule that stops training early. If None, nothing is scored.
        rule: What the method does to every update besides its loss.
        combine: How the gradient of a step is formed. If None, it is the weighted sum of those of the terms.
        checkpoints: Saved states. Training resumes from the last one if there is any.
        on_step: Function called with the number of finished steps, e.g. to show progress.

    Returns:
        The history and the reason why training ended. If a loss becomes NaN or infinite, the model gets back the last
        weights with finite losses.

    Raises:
        InputError: If a pattern of `settings.modules` matches no parameter, or the first loss is not finite.
    """
    checks = checks or Checks()
    steps = len(terms[0].order)
    params = trainable(model, settings.modules)
    tied = TiedEmbedding(model, params)
    weights = MasterWeights(model, params)
    tied.pairs = [(weights.of(trained), weights.of(copy), scale) for trained, copy, scale in tied.pairs]
    optimiser = adamw(tied.distinct(weights.params), settings)
    last_good = [p.detach().clone() for p in weights.params.values()]
    bounds = Bounds(model, weights.params, tied.distinct(weights.params), settings)
    run, done = Run(), 0

    # resume from a saved state, or score the model before the first step
    if checkpoints is not None:
        done, run.rows = checkpoints.load(weights.params, last_good, optimiser, checks.keep)
        weights.write()
    if done:
        checks.resume(done)
        if combine is not None:
            combine.resume(run.rows)
    elif checks.due(0, steps):
        run.rows.append({"step": 0, **checks.take(model, 0)})
        if reason := checks.after(model, run.rows[-1], steps, weights.params):
            run.stopped = reason
            return run

    with only_these_train(model, params), economical(model, settings):
        for step in range(done, steps):
            # learning rate of this step
            lr = settings.lr * schedule_factor(step, steps, settings.warmup, settings.schedule)
            for group in optimiser.param_groups:
                group["lr"] = lr
            row: Row = {"step": step + 1, "lr": lr}

            # forward and backward passes, accumulated over micro-batches
            batch = StepBatch(model, terms, step, settings.micro_batch, weights, tied)
            row.update(gradient(batch, combine))
            row.setdefault("loss", sum(term.weight * row[term.name] for term in terms))
            tied.fold_gradient()
            bounds.edit(weights.params)
            if rule is not None:
                rule.edit(weights.params)

            # clip the gradient
            norm = torch.nn.utils.clip_grad_norm_(tied.distinct(weights.params), settings.clip or float("inf"))
            row["grad_norm"] = float(norm)
            if broken := not_finite({name: row[name] for name in (*(t.name for t in terms), "grad_norm")}):
                run.stopped, run.diverged = restore(weights, last_good, broken, step, row[broken]), True
                break

            # update the weights
            torch._foreach_copy_(last_good, [p.detach() for p in weights.params.values()])
            optimiser.step()
            bounds.settle(weights.params, last_good)
            if rule is not None:
                rule.settle()
            batch.write()
            run.rows.append(row)
            on_step(step + 1)

            # score the model, and stop if the rule says so
            if checks.due(step + 1, steps):
                if checks.scores_due(step + 1, steps):
                    after = {term.name: value_after(model, term, step, settings.micro_batch) for term in terms}
                    if broken := not_finite(after):
                        run.stopped, run.diverged = restore(weights, last_good, broken, step + 1, after[broken]), True
                        break
                row.update(checks.take(model, step + 1, last=step + 1 == steps))
                if reason := checks.after(model, row, steps, weights.params):
                    run.stopped = reason
                    break

            # save the state
            if checkpoints is not None and checkpoints.due(step + 1, steps):
                checkpoints.save(step + 1, run.rows, weights.params, last_good, optimiser, checks.keep)

    # go back to the best check
    best = None if checks.keep is None else checks.keep.step
    if checks.keep is not None and best is not None and (run.diverged or best != run.rows[-1]["step"]):
        run.kept = best
        run.stopped += f", then those of step {best}" if run.diverged else ""
        checks.keep.put_back(weights.params)
        tied.copy_weight()
        weights.write()
    weights.clear()
    return run


def gradient(batch: StepBatch, combine: GradientRule | None = None) -> dict[str, float]:
    """Leave the gradient of the objective on the batch of one step in the weights to be updated.

    Returns:
        The unweighted value of each term, by name.
    """
    weights = batch.weights
    for scale in weights.scales:
        weights.clear()
        scaled = replace(batch, scale=scale)
        values = {t.name: scaled.add(t) for t in batch.terms} if combine is None else combine.gather(scaled)
        if scale == weights.scales[-1] or weights.finite():
            break
    weights.unscale(scale)
    return values


def micro_batches(term: Term, step: int, size: int | None) -> Iterator[tuple[list[int], float]]:
    """Yield the micro-batches of one step: indices of examples, and the share of the batch.

    The losses of the micro-batches, weighted by their shares, sum to the loss of the whole batch.
    """
    index = term.order[step].tolist()

    def count(part: Sequence[int]) -> int:
        return sum(len(term.data.rows[i].answer) for i in part) if term.per == "token" else len(part)

    for start in range(0, len(index), size or len(index)):
        part = index[start : start + (size or len(index))]
        yield part, count(part) / count(index)


def value_after(model: HookedModel, term: Term, step: int, micro_batch: int | None) -> float:
    """Return the term on the batch just trained on, after the update: not finite if the update broke the weights."""
    with torch.no_grad():
        return sum(
            share * float(term.loss(View(model, term.data, part), term.options))
            for part, share in micro_batches(term, step, micro_batch)
        )


def not_finite(values: Mapping[str, float | int]) -> str | None:
    """Return the name of the first value that is NaN or infinite, or None."""
    return next((name for name, value in values.items() if not isfinite(value)), None)


def restore(weights: MasterWeights, last_good: Sequence[Tensor], term: str, step: int, value: float) -> str:
    """Put the last good weights back, and warn.

    Args:
        weights: Trained weights.
        last_good: Their values before the last update.
        term: Name of the value that is not finite.
        step: Number of updates made so far.
        value: NaN or infinity.

    Returns:
        One line that tells what happened.

    Raises:
        InputError: If no update was made yet, so the given model itself is broken.
    """
    what = "gradient norm" if term == "grad_norm" else f"{term} loss"
    if step == 0:
        raise InputError(f"the {what} is {value} before the first step; load a sound model")
    with torch.no_grad():
        for p, good in zip(weights.params.values(), last_good, strict=True):
            p.copy_(good)
    weights.write()
    message = f"the {what} was {value} after step {step}; the weights of step {step - 1} are kept"
    warnings.warn(message + "; lower the lr", RuntimeWarning, stacklevel=4)
    return message
