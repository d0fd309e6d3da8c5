"""Make the optimiser of unlearning: AdamW, with the fused update of torch on a CPU.

The fused update walks through the memory of weight, gradient and moments side by side. If one of them lies in another
order than the weight, e.g. a gradient that a rule of a method set or moments that were read from a file, it would pair
the wrong numbers without a message. Before each step they are put in the order of their weight.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.unlearning.settings import Settings


def adamw(params: Iterable[Parameter], settings: Settings) -> torch.optim.AdamW:
    """Return AdamW over the parameters, with the hyperparameters of the settings.

    Args:
        params: Parameters to train, all on one kind of device.
        settings: Hyperparameters: `lr`, `beta1`, `beta2`, `eps` and `weight_decay`.
    """
    trained = list(params)
    optimiser = torch.optim.AdamW(
        trained,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        # On a CPU the fused update is several times faster; on CUDA torch's own choice is the fastest.
        fused=True if trained[0].device.type == "cpu" else None,
    )
    optimiser.register_step_pre_hook(_in_order_of_weights)
    return optimiser


def _in_order_of_weights(optimiser: torch.optim.Optimizer, args: object, kwargs: object) -> None:
    """Put gradients and moments in the memory order of their weights."""
    for group in optimiser.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad = _laid_out_like(p, p.grad)
            for name in ("exp_avg", "exp_avg_sq"):
                if name in optimiser.state.get(p, ()):
                    optimiser.state[p][name] = _laid_out_like(p, optimiser.state[p][name])


def _laid_out_like(weight: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor if its strides are those of the weight, else a copy in the order of the weight."""
    if tensor.stride() == weight.stride():
        return tensor
    return torch.empty_like(weight, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
