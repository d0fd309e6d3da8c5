r"""Register RMU along the subject direction: at the subject's last token, remove what sets the subject apart.

With h the residual stream after block l at the last token of the subject's name, $\mu$ its mean over other subjects
that the original model wrote about, and $v_s$ the unit vector from $\mu$ to the mean over the prompts of subject s, the
loss is the mean of $\langle h - \mu, v_s \rangle^2$, relative to its value at the start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded
from unpact_lens.unlearning.batch import SubjectTargets, View
from unpact_lens.unlearning.input_moments import mlp_matrices
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import add_rehearsed
from unpact_lens.unlearning.self_rehearsal import REHEARSAL
from unpact_lens.unlearning.subject_positions import forget_positions, values_at, written_positions
from unpact_lens.unlearning.trainer import Options

BATCH = 64
"""Number of rows in one forward pass when directions are taken."""


def subject_loss(
    acts: Float[Tensor, "row d_model"], directions: Float[Tensor, "row d_model"], centre: Float[Tensor, " d_model"]
) -> Float[Tensor, ""]:
    r"""Compute the mean of $\langle h - \mu, v \rangle^2$ over rows.

    Args:
        acts: Residual stream h.
        directions: Unit vectors v.
        centre: Mean $\mu$ over other subjects.
    """
    return ((acts.float() - centre) * directions).sum(-1).square().mean()


def take_directions(job: Job) -> None:
    """Take each subject's direction from the original model, and train only the MLP outputs up to that layer.

    Raises:
        InputError: If the layer does not exist, or a prompt does not hold its subject.
    """
    n_layers = job.before.cfg.n_layers
    layer = (n_layers - 1) // 2 if job.options["layer"] is None else job.options["layer"]
    if layer >= n_layers:
        raise InputError(f"layer={layer}; the model has layers 0 to {n_layers - 1}")
    job.options["layer"] = layer
    assert job.written is not None  # `writes`
    positions = forget_positions(job)
    here = residuals(job, job.data.rows, positions, layer)
    others = residuals(job, job.written.rows, written_positions(job.rehearsal, job.written.rows), layer)
    centre = others.mean(0)
    items = job.questions()
    subjects = [items[owner].subject for owner in job.data.owners]
    directions = torch.empty_like(here)
    for subject in dict.fromkeys(subjects):
        mine = torch.tensor([s == subject for s in subjects], device=here.device)
        directions[mine] = torch.nn.functional.normalize(here[mine].mean(0) - centre, dim=0)
    scale = float(subject_loss(here, directions, centre))
    job.data.subject_targets = SubjectTargets(positions, directions, centre, max(scale, 1e-30))
    if job.settings.modules is None:
        outputs = [n for n, (l, which, _) in mlp_matrices(job.before).items() if which == "out" and l <= layer]
        job.settings = dataclasses.replace(job.settings, modules=tuple(outputs))


def residuals(job: Job, rows: Sequence[Encoded], positions: Sequence[int], layer: int) -> Float[Tensor, "row d_model"]:
    """Return the original model's residual stream after a block at one position of each row, fp32."""
    hook = f"blocks.{layer}.hook_resid_post"
    with torch.no_grad():
        parts = [
            values_at(job.before, rows[i : i + BATCH], positions[i : i + BATCH], hook, layer)
            for i in range(0, len(rows), BATCH)
        ]
    return torch.cat(parts).float()


def rmu_subject_loss(view: View, options: Options) -> Tensor:
    """Compute the mean square along the subjects' directions, relative to that at the start."""
    targets, layer = view.data.subject_targets, options["layer"]
    assert targets is not None  # set by `take_directions`
    positions = [targets.positions[i] for i in view.index]
    acts = values_at(view.model, view.rows, positions, f"blocks.{layer}.hook_resid_post", layer)
    return subject_loss(acts, targets.directions[view.index], targets.centre) / targets.scale


RMU_SUBJECT = Method(
    "rmu_subject",
    "remove from the residual stream at the subject's last token what sets the subject apart from others",
    "mean ⟨h_l(x_f) − μ, v_s⟩² / its value at θ0, μ the mean over D_self, v_s from μ to the mean of subject s",
    "this toolkit, after RMU (Li et al. 2024, arXiv 2403.03218)",
    forget=rmu_subject_loss,
    per="example",
    writes=True,
    defaults={"lr": 1e-3},
    options={"layer": Option(None, Number(0, whole=True, optional=True)), **REHEARSAL},
    prepare=take_directions,
    note="layer None is the middle block, (n_layers − 1) // 2. Trains the MLP output weights of that layer and those "
    "below (modules= changes it). The residual is sent to the mean of other subjects along one direction for each "
    "subject, not to a random vector.",
)

METHODS.add("rmu_subject", RMU_SUBJECT)
add_rehearsed(RMU_SUBJECT)
