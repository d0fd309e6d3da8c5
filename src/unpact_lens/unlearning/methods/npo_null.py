r"""Register NPO with updates in the null space of what other facts use.

The change of each MLP matrix is projected off the directions that its inputs take on questions and answers that the
original model wrote about other subjects: $(W - W_0)\, k \approx 0$ for those inputs k. No retain fact is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.input_moments import input_moments, mlp_matrices
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.losses import wide
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import add_rehearsed
from unpact_lens.unlearning.self_rehearsal import REHEARSAL
from unpact_lens.unlearning.trainable import readable_names, trainable


def used_directions(moment: Float[Tensor, "input input"], spare: float) -> Float[Tensor, "input used"]:
    """Return an orthonormal basis of the input directions that are used.

    The directions left out are eigenvectors of the smallest eigenvalues, which together hold at most a share `spare` of
    the inputs' mean square.

    Args:
        moment: Second moment of the inputs.
        spare: Share of the mean square, from 0 to below 1.
    """
    values, vectors = torch.linalg.eigh(moment)  # ascending
    shares = values.clamp(min=0).cumsum(0) / values.clamp(min=0).sum().clamp(min=1e-300)
    return vectors[:, shares > spare]


def without_directions(
    change: Float[Tensor, "rows columns"], used: Float[Tensor, "input used"], axis: int
) -> Float[Tensor, "rows columns"]:
    """Project a matrix off the used input directions.

    Args:
        change: Matrix.
        used: Orthonormal basis.
        axis: Axis of the matrix along which inputs lie.
    """
    return change - used @ (used.T @ change) if axis == 0 else change - (change @ used) @ used.T


def train_mlp_matrices(job: Job) -> None:
    """Train the matrices of all MLPs, or those of them that `modules` names.

    Raises:
        InputError: If `modules` names another weight.
    """
    matrices = mlp_matrices(job.before)
    if job.settings.modules is None:
        job.settings = dataclasses.replace(job.settings, modules=tuple(matrices))
        return
    short = readable_names(job.before)
    for name in trainable(job.before, job.settings.modules):
        if short[name] not in matrices:
            raise InputError(
                f"modules={list(job.settings.modules)} trains {short[name]}, whose inputs are not known; "
                f"choose among the matrices of MLPs, e.g. {next(iter(matrices))!r}"
            )


class NullSpace:
    """Keep the change of each trained matrix off the input directions that other facts use.

    Args:
        model: Copy to be trained.
        job: Run with the option `spare` and the text that the original model wrote.
    """

    def __init__(self, model: HookedModel, job: Job) -> None:
        assert job.written is not None  # `writes`
        short, matrices = readable_names(model), mlp_matrices(model)
        trained = {n: short[n] for n in trainable(model, job.settings.modules)}
        moments = input_moments(job.before, job.written.rows, {s: matrices[s] for s in trained.values()})
        bases = {s: used_directions(moment, job.options["spare"]) for s, moment in moments.items()}
        free = sum(len(b) - b.shape[1] for b in bases.values())
        if free == 0:
            raise InputError(
                f"spare={job.options['spare']}: the other facts use every direction of the trained matrices; raise "
                "spare"
            )
        weights = dict(model.named_parameters())
        self.parts: dict[str, tuple[Tensor, Tensor, int]] = {}
        for name, s in trained.items():
            start = wide(weights[name].detach()).clone()
            self.parts[name] = (start, bases[s].to(start), matrices[s][2])
        self.params: Mapping[str, Parameter] = {}

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Project the gradients, so that their norm counts only what can be followed."""
        self.params = params
        for name, (_, used, axis) in self.parts.items():
            grad = params[name].grad
            if grad is not None:
                params[name].grad = without_directions(grad, used.to(grad), axis)

    def settle(self) -> None:
        """Project the changes: AdamW scales each entry of the gradient and leaves the null space."""
        with torch.no_grad():
            for name, (start, used, axis) in self.parts.items():
                p = self.params[name]
                p.copy_(start + without_directions(wide(p) - start, used, axis))


NPO_NULL = Method(
    "npo_null",
    "NPO that changes MLP matrices only along input directions that other facts do not use",
    "(2/β)·mean softplus(β(ℓ_θ − ℓ_θ0)) / mean T with W − W0 = (W − W0)·P, P off the inputs on D_self",
    "this toolkit, after Fang et al. 2024 (AlphaEdit), arXiv 2410.02355; loss of arXiv 2404.05868",
    forget=lambda view, options: losses.npo(view.log_probs, view.ref_log_probs, view.mask, options["beta"]),
    per="example",
    sums=True,
    writes=True,
    options={**NPO, "spare": Option(0.01, Number(0, 1, below=True)), **REHEARSAL},
    prepare=train_mlp_matrices,
    rule=NullSpace,
    adapts="it projects the change of the weights themselves",
    note="the source edits MLP output matrices in closed form, and its null space is that of inputs on Wikipedia text, "
    "with eigenvalues below 0.01. Here all matrices of the MLPs are trained by gradient, the inputs are those on "
    "questions and answers that the original model wrote about other subjects, and the free directions hold a share "
    "of at most spare= of the inputs' mean square.",
)

METHODS.add("npo_null", NPO_NULL)
add_rehearsed(NPO_NULL)
