"""Register task arithmetic: fine-tune on the forget set, then subtract the change of the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from unpact_lens.data.benchmark import Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.low_rank import LowRank, adapters_of
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.early_stopping import Checks, FactsKnown, StopRule
from unpact_lens.unlearning.job import Plan, train_copy
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.trainer import Run

LEVEL = 0.05
"""Share of forget facts still known that decides the coefficient where no level is asked for."""


def task_vector(before: HookedModel, after: HookedModel) -> dict[str, Tensor]:
    r"""Compute the task vector $\theta_{ft} - \theta_0$ of every parameter. Buffers are left out.

    Args:
        before: Model that fine-tuning started from.
        after: Fine-tuned model.
    """
    start = dict(before.named_parameters())
    return {n: p.detach() - start[n].detach() for n, p in after.named_parameters()}


def set_negated(model: HookedModel, before: HookedModel, vector: Mapping[str, Tensor], coefficient: float) -> None:
    r"""Set the weights of `model` to $\theta_0 - a\,(\theta_{ft} - \theta_0)$, in place.

    Args:
        model: Model of the same architecture as `before`.
        before: Model with weights $\theta_0$.
        vector: Result of `task_vector`.
        coefficient: Coefficient a. With 0, the weights equal those of `before` exactly.
    """
    start = dict(before.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(start[name] if coefficient == 0 else start[name] - coefficient * vector[name])


def smallest_coefficient(
    reaches: Callable[[float], bool], *, start: float = 1.0, largest: float = 256.0, tolerance: float = 0.05
) -> float | None:
    """Find the smallest coefficient that reaches the forgetting level, by doubling and bisection.

    Algorithm:
        1. Halve or double from `start` until one coefficient fails and its double succeeds.
        2. Bisect between both on a logarithmic scale until they differ by less than `tolerance`.

    Args:
        reaches: Function that returns whether a coefficient reaches the level.
        start: First coefficient to try.
        largest: Largest coefficient to try.
        tolerance: Relative width at which bisection ends.

    Returns:
        The smallest coefficient seen to succeed; None if `largest` fails.

    >>> round(smallest_coefficient(lambda a: a >= 5.3, tolerance=0.01), 1)
    5.3
    """
    low, high = 0.0, start
    if reaches(high):
        while high > start / 1024 and reaches(high / 2):
            high /= 2
        low = high / 2
    else:
        while True:
            low, high = high, min(2 * high, largest)
            if low >= largest:
                return None
            if reaches(high):
                break
    while high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def subtract_task_vector(plan: Plan) -> Run:
    """Train the copy on the forget set, then subtract the task vector with the smallest coefficient that is enough.

    A coefficient is enough if the stop rule would stop a training run there: the forget level is reached, or the retain
    score is below its floor. Without a rule, the forget level is `LEVEL` where the original model knows forget facts.
    """
    run = train_copy(dataclasses.replace(plan, checks=Checks()))
    options = plan.job.options
    return set_coefficient(
        plan, run, plan.after, _opposite(plan.job.before, plan.after),
        given=options["coefficient"], largest=options["max_coefficient"], tolerance=options["tolerance"],
    )  # fmt: skip


def set_coefficient(
    plan: Plan,
    run: Run,
    model: HookedModel,
    go: Callable[[float], None],
    *,
    given: float | None,
    largest: float,
    tolerance: float = 0.05,
    name: str = "coefficient",
) -> Run:
    """Set a model to a given coefficient, or to the smallest one that is enough; see `subtract_task_vector`.

    Args:
        plan: Run that is carried out.
        run: History so far; one row is added for each coefficient that is tried.
        model: Model that is scored.
        go: Function that sets the model to a coefficient.
        given: Coefficient. If None, the smallest that is enough is searched; without facts to decide by, it is 1.
        largest: Largest coefficient to try. It is the result if none is enough.
        tolerance: Relative width at which the search ends.
        name: Name of the coefficient in messages.

    Returns:
        `run`, with the reason why the search ended.
    """
    checks = plan.checks if given is not None else with_level(plan)

    def reason(coefficient: float) -> str | None:
        go(coefficient)
        run.rows.append({"coefficient": coefficient, **checks.take(model, 0, last=True)})
        return checks.verdict(run.rows[-1])

    if given is not None or checks.rule == StopRule():
        reason(1.0 if given is None else given)
        return run
    found = smallest_coefficient(
        lambda a: reason(a) is not None, start=min(1.0, largest), largest=largest, tolerance=tolerance
    )
    if found is None:
        wanted = "forget level" if checks.rule.forget is not None else "retain floor"
        run.stopped = f"no {name} reaches the {wanted}"
        reason(largest)
    else:
        run.stopped = reason(found) or run.stopped
    return run


def _opposite(before: HookedModel, after: HookedModel) -> Callable[[float], None]:
    """Return the function that sets the fine-tuned model to the negated task vector times a coefficient.

    Where fine-tuning added adapters, the task vector is their product, so their second factor is scaled.
    """
    old = {module: len(each) for module, each in _adapters(before).items()}
    added = [a for module, each in _adapters(after).items() for a in each[old.get(module, 0) :]]
    if not added:
        vector = task_vector(before, after)
        return lambda coefficient: set_negated(after, before, vector, coefficient)
    learnt = [a.B.detach().clone() for a in added]

    def scale(coefficient: float) -> None:
        with torch.no_grad():
            for adapter, factor in zip(added, learnt, strict=True):
                adapter.B.copy_(-coefficient * factor)

    return scale


def _adapters(model: HookedModel) -> dict[tuple[str, str], list[LowRank]]:
    """Return the adapters of each weight, by the name of its module and its own name."""
    names = {module: name for name, module in model.named_modules()}
    return {(names[module], leaf): each for module, leaf, each in adapters_of(model)}


def with_level(plan: Plan) -> Checks:
    """Return the checks of a run, with the forget level `LEVEL` if no level is asked for and there are known facts."""
    if plan.checks.rule != StopRule() or isinstance(plan.job.forget, Corpus):
        return plan.checks
    try:
        known = FactsKnown(plan.job.before, plan.job.forget, plan.job.settings)
    except InputError:
        return plan.checks
    return Checks(StopRule(LEVEL), {"forget_score": known, **plan.checks.scores})


METHODS.add(
    "task_vector",
    Method(
        "task_vector",
        "task arithmetic: learn the forget set by heart, then go the opposite way",
        "θ_0 − a(θ_ft − θ_0), θ_ft trained on −mean log p of D_f",
        "Ilharco et al. 2022, arXiv 2212.04089; MUSE, arXiv 2407.06460",
        forget=lambda view, options: losses.nll(view.log_probs, view.mask),
        options={
            "coefficient": Option(None, Number(0, above=True, optional=True)),
            "max_coefficient": Option(256.0, Number(0, above=True)),
            "tolerance": Option(0.05, Number(0, above=True)),
        },
        carry_out=subtract_task_vector,
        note="a is the smallest at which the stop rule holds, found by doubling and bisection. With no rule, the "
        "forget level is 0.05; where no forget fact is known, a is 1.",
    ),
)
