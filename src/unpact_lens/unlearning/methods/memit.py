r"""Register a closed-form edit of one MLP output matrix, as MEMIT does, towards other answers.

1. For each subject, find the change $\delta_s$ of the MLP's output at the last token of the subject's name that makes
   the model give other answers to the forget questions, by gradient steps on $\delta_s$ alone.
2. With keys $k_i$, the inputs of the output matrix there, minimise
   $\lambda\, \mathrm{tr}(\Delta C \Delta^T) + \frac1n \sum_i \|\Delta k_i - \delta_{s(i)}\|^2$ in closed form. C is the
   second moment of the inputs on questions that the original model wrote about other subjects.
3. Add the smallest multiple of $\Delta$ at which the stop rule holds.
"""

from __future__ import annotations

import random

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.scoring import gather_log_probs
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples, View
from unpact_lens.unlearning.early_stopping import StopRule
from unpact_lens.unlearning.input_moments import input_moments, mlp_matrices
from unpact_lens.unlearning.job import Job, Plan
from unpact_lens.unlearning.methods.relearn import written_answers
from unpact_lens.unlearning.methods.task_vector import smallest_coefficient
from unpact_lens.unlearning.option import Number, Option, Texts
from unpact_lens.unlearning.preference import with_answer
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.self_rehearsal import REHEARSAL
from unpact_lens.unlearning.subject_positions import forget_positions, values_at
from unpact_lens.unlearning.trainable import readable_names
from unpact_lens.unlearning.trainer import Run

LARGEST, TOLERANCE = 64.0, 0.05
"""Largest multiple of the edit to try, and the relative width at which the search for the smallest ends."""


def closed_form(
    keys: Float[Tensor, "row input"],
    values: Float[Tensor, "row output"],
    moment: Float[Tensor, "input input"],
    weight: float,
) -> Float[Tensor, "input output"]:
    r"""Compute the edit $\Delta^T = (\lambda C + \frac1n K^T K)^{-1} \frac1n K^T V$, in double precision.

    Args:
        keys: Inputs K of the matrix at which its output is to change.
        values: Changes V of the output.
        moment: Second moment C of the inputs at which the output is to stay.
        weight: Weight λ of what is to stay, > 0.

    Returns:
        Change of the matrix, `[input, output]`.

    Source: Meng et al. 2022 (MEMIT), arXiv 2210.07229, Eq. 14.
    """
    k, v, c = keys.double(), values.double(), moment.double()
    # Inputs that never occur, e.g. of dead neurons, leave the system singular.
    ridge = 1e-6 * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype, device=c.device)
    return torch.linalg.solve(weight * (c + ridge) + k.T @ k / len(k), k.T @ v / len(k))


def pair_with_other_answers(job: Job) -> None:
    """Put another answer beside every answer, and choose the layer.

    Raises:
        InputError: If the layer does not exist, the model normalises the MLP's output, or there is no other answer.
    """
    n_layers = job.before.cfg.n_layers
    layer = (n_layers - 1) // 2 if job.options["layer"] is None else job.options["layer"]
    if layer >= n_layers:
        raise InputError(f"layer={layer}; the model has layers 0 to {n_layers - 1}")
    if getattr(job.before.cfg, "use_normalization_before_and_after", False):
        raise InputError("the model normalises what its MLPs write, so no matrix sets it alone; use another method")
    job.options["layer"] = layer
    rng = random.Random(f"memit/{job.seed}")
    items, given = job.questions(), job.options["answers"]
    other = written_answers(job) if given is None else [list(given)] * len(items)
    rows = []
    for row, owner in zip(job.data.rows, job.data.owners, strict=True):
        free = [a for a in other[owner] if items[owner].fact.strip() not in a]
        if not free:
            raise InputError(
                f"forget item {items[owner].id or owner}: every other answer holds its fact; give answers="
            )
        rows.append(with_answer(job, row, rng.choice(free), "answer"))
    job.data.alternatives = Examples(rows, job.before, job.data.owners)


def output_changes(
    model: HookedModel, data: Examples, positions: list[int], groups: list[int], job: Job, run: Run
) -> Float[Tensor, "group d_model"]:
    """Find for each subject the change of the MLP's output at its last token that gives the other answers.

    Args:
        model: Original model.
        data: Prompts with the other answers.
        positions: Position of the subject's last token in each row.
        groups: Number of the subject of each row.
        job: Run with the options `layer`, `target_steps` and `target_lr`.
        run: Progress, to which one row for each step is added.
    """
    device = hooked.device_of(model)
    change = torch.zeros(max(groups) + 1, model.cfg.d_model, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=job.options["target_lr"])
    owner, place = torch.tensor(groups, device=device), torch.tensor(positions, device=device)
    for step in range(job.options["target_steps"]):
        optimiser.zero_grad()
        total = 0.0
        for start in range(0, len(data), job.settings.batch_size):
            index = torch.arange(start, min(start + job.settings.batch_size, len(data)), device=device)
            view = View(model, data, index.tolist())

            def add(value: Tensor, hook: HookPoint, index: Tensor = index) -> Tensor:
                moved = torch.zeros_like(value)
                moved[torch.arange(len(index), device=device), place[index]] = change[owner[index]].to(value.dtype)
                return value + moved

            hooks = [(f"blocks.{job.options['layer']}.hook_mlp_out", add)]
            logits = hooked.logits_at(model, view.tokens, view.positions, hooks)
            loss = losses.nll(gather_log_probs(logits, view.labels), view.mask) * len(index) / len(data)
            (gradient,) = torch.autograd.grad(loss, change)
            change.grad = gradient if change.grad is None else change.grad + gradient
            total += float(loss.detach())
        optimiser.step()
        run.rows.append({"step": step + 1, "target": total})
    return change.detach()


def edit_in_closed_form(plan: Plan) -> Run:
    """Add the smallest multiple of the edit at which the stop rule holds; without a rule, the edit itself."""
    job, run = plan.job, Run()
    assert job.written is not None  # `writes`
    assert job.data.alternatives is not None  # set by `pair_with_other_answers`
    layer, model = job.options["layer"], job.before
    items = job.questions()
    subjects = list(dict.fromkeys(q.subject for q in items))
    groups = [subjects.index(items[owner].subject) for owner in job.data.owners]
    positions = forget_positions(job)
    changes = output_changes(model, job.data.alternatives, positions, groups, job, run)
    with torch.no_grad():
        keys = values_at(model, job.data.rows, positions, f"blocks.{layer}.mlp.hook_post", layer)
    found = {n: m for n, m in mlp_matrices(model).items() if m[:2] == (layer, "out")}
    (name,) = found
    moment = input_moments(model, job.written.rows, found)[name]
    delta = closed_form(keys, changes[torch.tensor(groups, device=changes.device)], moment, job.options["hold"])
    short = readable_names(plan.after)
    weight = next(p for n, p in plan.after.named_parameters() if short[n] == name)
    start = weight.detach().double().clone()
    delta = delta if found[name][2] == 0 else delta.T

    def reason(multiple: float) -> str | None:
        with torch.no_grad():
            weight.copy_(start + multiple * delta)
        run.rows.append({"coefficient": multiple, **plan.checks.take(plan.after, 0, last=True)})
        return plan.checks.verdict(run.rows[-1])

    multiple = None
    if plan.checks.rule != StopRule():
        multiple = smallest_coefficient(lambda a: reason(a) is not None, largest=LARGEST, tolerance=TOLERANCE)
        if multiple is None:
            run.stopped = f"no multiple of the edit up to {LARGEST:g} reaches the forget level"
            multiple = LARGEST
    run.stopped = reason(1.0 if multiple is None else multiple) or run.stopped
    return run


METHODS.add(
    "memit",
    Method(
        "memit",
        "edit one MLP output matrix in closed form, so that the subject's last token leads to other answers",
        "a·Δ, Δ = argmin λ·tr(Δ C Δᵀ) + mean ‖Δ k_i − δ_s(i)‖², C of inputs on D_self",
        "Meng et al. 2022, arXiv 2210.07229, Eq. 14; ROME, arXiv 2202.05262",
        forget=lambda view, options: losses.nll(view.log_probs, view.mask),
        per="token",
        writes=True,
        options={
            "layer": Option(None, Number(0, whole=True, optional=True)),
            "hold": Option(1.0, Number(0, above=True)),
            "target_steps": Option(30, Number(1, whole=True)),
            "target_lr": Option(0.1, Number(0, above=True)),
            "answers": Option(None, Texts(optional=True, one=True)),
            **REHEARSAL,
        },
        prepare=pair_with_other_answers,
        carry_out=edit_in_closed_form,
        adapts="it edits one matrix in closed form",
        note="one layer (None is the middle one), where the source spreads the edit over several; C is of what the "
        "original model wrote about other subjects, where the source takes Wikipedia. hold= is λ relative to one mean "
        "over edits. answers= gives the other answers; None takes written ones, as `relearn` does. a is the smallest "
        "at which the stop rule holds; 1 without a rule. lr and steps have no effect.",
    ),
)
