r"""Treat normalisation as a linear map at its frozen scale: exact algebra on raw weights.

At a position with scale $s$ (known from the forward pass), LayerNorm maps a part $c$ of its input to
$\gamma \odot (c - \bar c)/s$ and adds $\beta$ once. RMSNorm does the same without centring. Parts of the input are
therefore parts of the output. A direction $u$ in the output corresponds to $P(\gamma \odot u)/s$ in the input, where
$P$ is the centring, which is symmetric. No weights are folded, so two compared models keep one basis.
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
    """Hold the weights of one normalisation.

    Attributes:
        centres: Whether it subtracts the mean (LayerNorm) or not (RMSNorm).
        scales: Whether it divides by a scale; False for an identity.
        weight: γ `[d_model]`, or None if there is none or it was folded into another matrix.
        bias: β `[d_model]`, or None.
    """

    centres: bool
    scales: bool
    weight: Float[Tensor, " d_model"] | None
    bias: Float[Tensor, " d_model"] | None


def norm_of(module: Any, name: str) -> Norm:
    """Read the weights of a normalisation module, of a `HookedTransformer` or of a `TransformerBridge`.

    Args:
        module: Normalisation module: `ln_final`, a block's `ln1`, `ln1_post`, ...
        name: Name of the module in error messages.

    Raises:
        InputError: If the module is of an unknown kind.
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
    r"""Map a part of the input to the output at frozen scale, without the bias.

    $\gamma \odot (c - \bar c)/s$, or $\gamma \odot c/s$ if the norm does not centre. The sum over parts that add up to
    the input, plus β, is the norm's output.
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
    r"""Return the input direction that reads what `direction` reads in the output: the transpose of `normalise`.

    $P(\gamma \odot u)/s$, so that for every part $c$: `normalise(norm, c, s) @ u == c @ pull_back(norm, u, s)`.
    """
    if norm.weight is not None:
        direction = direction * norm.weight
    if norm.scales:
        direction = direction / scale
    return direction - direction.mean(-1, keepdim=True) if norm.centres else direction


def bias_along(norm: Norm, direction: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """Compute what the norm's bias β adds along a direction in its output; 0 without a bias."""
    if norm.bias is None:
        return torch.zeros(direction.shape[:-1], dtype=direction.dtype, device=direction.device)
    return direction @ norm.bias
