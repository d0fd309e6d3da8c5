"""Train half-precision weights by fp32 copies, so that small updates are not lost in rounding.

bf16 holds eight significant bits: an AdamW step of 1e-5 does not change a weight of 0.1, so most weights never move. In
fp16 AdamW's epsilon of 1e-8 is 0, and a step becomes arbitrarily large. Mixed-precision training keeps fp32 copies, the
master weights. They get the gradient and the update, and the model gets their rounded values.

Source: Micikevicius et al. 2018, arXiv 1710.03740.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import Parameter

from unpact_lens.models.hooked import HookedModel

HALF = (torch.bfloat16, torch.float16)

FP16_SCALES = (256.0, 16.0, 1.0)
"""Factors of the loss to try in turn if a model holds fp16 weights. A large one keeps small gradients from vanishing;
the first that gives finite gradients counts."""


class MasterWeights:
    """Hold the weights that the optimiser updates: fp32 copies of half-precision ones, all others themselves.

    Args:
        model: Model being trained.
        params: Its trained parameters, by name.

    Attributes:
        params: Weights to be updated, by the same names.
        scales: Factors of the loss to try in turn.
    """

    def __init__(self, model: HookedModel, params: Mapping[str, Parameter]) -> None:
        self.params = {n: Parameter(p.detach().float()) if p.dtype in HALF else p for n, p in params.items()}
        self.pairs = [(p, self.params[n]) for n, p in params.items() if self.params[n] is not p]
        self.scales = FP16_SCALES if any(p.dtype == torch.float16 for p in model.parameters()) else (1.0,)

    def of(self, param: Parameter) -> Parameter:
        """Return the master of a parameter of the model, or itself if it has none."""
        return next((master for p, master in self.pairs if p is param), param)

    def collect(self) -> None:
        """Add the gradients of the model's half-precision weights to those of their masters, in fp32."""
        for p, master in self.pairs:
            if p.grad is not None:
                wide = p.grad.float()
                master.grad = wide if master.grad is None else master.grad + wide
                p.grad = None

    def clear(self) -> None:
        """Remove all gradients."""
        for p in (*self.params.values(), *(p for p, _ in self.pairs)):
            p.grad = None

    def unscale(self, scale: float) -> None:
        """Divide all gradients by the factor of the loss."""
        if scale != 1.0:
            for p in self.params.values():
                if p.grad is not None:
                    p.grad = p.grad / scale

    def finite(self) -> bool:
        """Return whether every gradient is finite."""
        return all(bool(p.grad.isfinite().all()) for p in self.params.values() if p.grad is not None)

    def write(self) -> None:
        """Give the model the rounded values of its masters."""
        with torch.no_grad():
            for p, master in self.pairs:
                p.copy_(master)
