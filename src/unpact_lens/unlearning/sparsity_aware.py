r"""Sparsity-aware unlearning: prune, then let the update move only the weights that survive.

Our reading, since the exact form of the source is not known to us: with $m$ the mask of survivors, a gradient becomes
$m \odot g \odot (1 + \lambda\,\mathrm{imp})$, where $\mathrm{imp} = |\theta \odot g|$ divided by its mean over
survivors, rescaled to the norm of g. Pruned weights stay exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.unlearning.adapters import is_matrix
from unpact_lens.unlearning.trainer import readable_names


def survivors(weight: Float[Tensor, "*shape"], sparsity: float) -> Bool[Tensor, "*shape"]:
    """The weights of largest magnitude; a share `sparsity` (rounded down) of the others is pruned."""
    pruned = int(sparsity * weight.numel())
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[weight.abs().flatten().argsort()[:pruned]] = False
    return mask.reshape(weight.shape)


def redirected(
    grad: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], strength: float
) -> Float[Tensor, "*shape"]:
    """The gradient on survivors, more where `|weight · gradient|` is large, at the norm of the whole gradient."""
    importance = (weight * grad).abs() * mask
    mean = importance.sum() / mask.sum().clamp(min=1)
    kept = torch.where(mask, grad * (1 + strength * importance / mean.clamp(min=1e-30)), 0.0)
    return kept * (grad.norm() / kept.norm().clamp(min=1e-30))


class SparseUpdate:
    """Prunes a model's matrices in place, and from then on edits the gradients of each step.

    Args:
        model: the copy that will be trained.
        options: `sparsity`, from 0 to below 1, and `strength`, lambda.
    """

    def __init__(self, model: Any, options: Mapping[str, Any]) -> None:
        self.strength = float(options["strength"])
        sparsity = options["sparsity"]
        if not 0 <= sparsity < 1:
            raise InputError(f"sparsity={sparsity}; give a share from 0 to below 1")
        self.masks: dict[int, Tensor] = {}
        with torch.no_grad():
            names = readable_names(model)
            for name, p in model.named_parameters():
                if is_matrix(names[name], p):
                    self.masks[id(p)] = survivors(p, sparsity)
                    p.mul_(self.masks[id(p)])

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Replace the gradient of every pruned matrix."""
        for p in params.values():
            if id(p) in self.masks and p.grad is not None:
                p.grad = redirected(p.grad, p.detach(), self.masks[id(p)], self.strength)

    def settle(self) -> None:
        """Nothing: a weight at 0 whose gradient is always 0 stays at 0."""
