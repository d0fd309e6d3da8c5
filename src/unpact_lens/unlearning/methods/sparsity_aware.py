r"""Register sparsity-aware unlearning: prune, then update only the weights that survive.

This is our reading; the exact form of the source is not known to us. With $m$ the mask of survivors, a gradient becomes
$m \odot g \odot (1 + \lambda\,\mathrm{imp})$, where $\mathrm{imp} = |\theta \odot g|$ divided by its mean over
survivors, rescaled to the norm of g. Pruned weights stay exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.adapters import is_matrix
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import retain_nll
from unpact_lens.unlearning.trainable import readable_names


def survivors(weight: Float[Tensor, "*shape"], sparsity: float) -> Bool[Tensor, "*shape"]:
    """Return the mask of weights that survive pruning.

    Args:
        weight: Matrix to be pruned.
        sparsity: Share of weights to prune, those of smallest magnitude. Their number is rounded down.
    """
    pruned = int(sparsity * weight.numel())
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[weight.abs().flatten().argsort()[:pruned]] = False
    return mask.reshape(weight.shape)


def redirected(
    grad: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], strength: float
) -> Float[Tensor, "*shape"]:
    """Move the gradient to the survivors, more where `|weight · gradient|` is large, and keep its norm.

    Args:
        grad: Gradient of the whole matrix.
        weight: Matrix.
        mask: True on survivors.
        strength: Factor λ of the importance; 0 treats all survivors alike.
    """
    importance = (weight * grad).abs() * mask
    mean = importance.sum() / mask.sum().clamp(min=1)
    kept = torch.where(mask, grad * (1 + strength * importance / mean.clamp(min=1e-30)), 0.0)
    return kept * (grad.norm() / kept.norm().clamp(min=1e-30))


class SparseUpdate:
    """Prune a model's matrices in place, then redirect the gradient of each step.

    Args:
        model: Copy to be trained.
        job: Run with the options `sparsity`, from 0 to below 1, and `strength`, λ.
    """

    def __init__(self, model: HookedModel, job: Job) -> None:
        self.strength, sparsity = job.options["strength"], job.options["sparsity"]
        self.masks: dict[str, Tensor] = {}
        with torch.no_grad():
            names = readable_names(model)
            for name, p in model.named_parameters():
                if is_matrix(names[name], p):
                    self.masks[name] = survivors(p, sparsity)
                    p.mul_(self.masks[name])

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Replace the gradient of every pruned matrix."""
        for name, p in params.items():
            if name in self.masks and p.grad is not None:
                p.grad = redirected(p.grad, p.detach(), self.masks[name], self.strength)

    def settle(self) -> None:
        """Do nothing: a weight at 0 whose gradient is always 0 stays at 0."""


METHODS.add(
    "sparsity_aware",
    Method(
        "sparsity_aware",
        "prune first, then unlearn with updates that reach only surviving weights, the important ones most",
        "mean log p + α·[−mean log p on D_r]; gradient m⊙g⊙(1 + λ·imp), imp = |θ⊙g| over its mean, at the norm of g",
        "Wang 2026: our reading, its exact form is not known to us (no arXiv id)",
        forget=lambda view, options: losses.gradient_ascent(view.log_probs, view.mask),
        retain=retain_nll,
        defaults={"lr": 2e-4},
        options={"sparsity": Option(0.3, Number(0, 1, below=True)), "strength": Option(1.0, Number(0))},
        rule=SparseUpdate,
        adapts="it prunes the weights themselves, and adapters leave these as they are",
        note="magnitude pruning, matrix by matrix; embeddings are left whole. Pruned weights stay exactly 0.",
    ),
)
