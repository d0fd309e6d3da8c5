r"""Normalisation as the linear map that it is once its scale is known: exact algebra on raw weights.

At a position whose scale is $s$ (known from the forward pass), LayerNorm maps a part $c$ of its input to
$\gamma \odot (c - \bar c)/s$ and adds $\beta$ once; RMSNorm does the same without centring. So the parts of the input
are parts of the output, and a direction $u$ in the output is read, in the input, along
$P(\gamma \odot u)/s$ with $P$ the centring, which is symmetric. Nothing is folded: two models compared keep one basis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError


@dataclass(frozen=True)
class Norm:
    """The weights of one normalisation.

    Attributes:
        centres: whether it subtracts the mean (LayerNorm) or not (RMSNorm).
        scales: whether it divides by a scale at all; False for an identity in its place.
        weight: γ `[d_model]`, None where there is none or it was folded away.
        bias: β `[d_model]`, None where there is none.
    """

    centres: bool
    scales: bool
    weight: Float[Tensor, " d_model"] | None
    bias: Float[Tensor, " d_model"] | None


def norm_of(module: Any, name: str) -> Norm:
    """Read the weights of a normalisation module, of a `HookedTransformer` or of a `TransformerBridge`.

    Args:
        module: `ln_final`, a block's `ln1`, `ln1_post`, ...
        name: how an error calls it.

    Raises:
        InputError: if it is of a kind whose algebra is not known here.
    """
    kind = type(module).__name__
    if kind in ("Identity", "function"):
        return Norm(centres=False, scales=False, weight=None, bias=None)
    if kind == "LayerNorm":
        return Norm(centres=True, scales=True, weight=module.w, bias=module.b)
    if kind == "RMSNorm":
        return Norm(centres=False, scales=True, weight=module.w, bias=None)
    if kind in ("LayerNormPre", "RMSNormPre", "LayerNormPreBridge", "RMSNormPreBridge"):
        return Norm(centres=kind.startswith("LayerNorm"), scales=True, weight=None, bias=None)
    if kind in ("NormalizationBridge", "RMSNormalizationBridge"):
        if type(module.original_component).__name__ == "Identity":
            return Norm(centres=False, scales=False, weight=None, bias=None)
        centres = not module.uses_rms_norm
        weight = getattr(module.original_component, "weight", None)
        if weight is not None and getattr(module.config, "rmsnorm_uses_offset", False):
            weight = 1 + weight
        return Norm(centres, True, weight, getattr(module.original_component, "bias", None) if centres else None)
    raise InputError(f"{name} is a {kind}, which is not known to be linear at frozen scale; LayerNorm and RMSNorm are")


def normalise(
    norm: Norm,
    part: Float[Tensor, "*batch d_model"],
    scale: Float[Tensor, "*#batch 1"],
) -> Float[Tensor, "*batch d_model"]:
    r"""What a part of the input becomes in the output at frozen scale, without the bias.

    $\gamma \odot (c - \bar c)/s$, or $\gamma \odot c/s$ where the norm does not centre. Summed over parts that add up
    to the input, and with β added, this is the norm's output.
    """
    if norm.centres:
        part = part - part.mean(-1, keepdim=True)
    if norm.scales:
        part = part / scale
    return part if norm.weight is None else part * norm.weight


def pull_back(
    norm: Norm,
    direction: Float[Tensor, "*batch d_model"],
    scale: Float[Tensor, "*#batch 1"],
) -> Float[Tensor, "*batch d_model"]:
    r"""The direction in the input that reads what `direction` reads in the output: the transpose of `normalise`.

    $P(\gamma \odot u)/s$, so that for every part $c$: `normalise(norm, c, s) @ u == c @ pull_back(norm, u, s)`.
    """
    if norm.weight is not None:
        direction = direction * norm.weight
    if norm.scales:
        direction = direction / scale
    return direction - direction.mean(-1, keepdim=True) if norm.centres else direction


def bias_along(norm: Norm, direction: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """What the norm's own bias β adds along a direction in its output; 0 where there is no bias."""
    if norm.bias is None:
        return torch.zeros(direction.shape[:-1], dtype=direction.dtype, device=direction.device)
    return direction @ norm.bias
