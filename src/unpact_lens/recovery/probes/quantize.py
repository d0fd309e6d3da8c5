r"""Quantisation: does a fact come back when the weights are rounded, because the change that hid it was small?

Round to nearest, symmetric, one scale a channel: with $s = \max|w| / (2^{b-1} - 1)$ over the inputs of a channel,
$\hat w = s \cdot \mathrm{round}(w / s)$. Every weight matrix of attention and MLP is rounded; embeddings, norms, biases
and the unembedding keep their precision, as is usual. Computation stays in the weights' own type.

Source: Zhang et al. 2024, arXiv 2410.16454 (quantisation brings unlearned knowledge back), with round-to-nearest.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import clone


def round_to_bits(weight: Float[Tensor, "*axes"], bits: int, dim: int) -> Float[Tensor, "*axes"]:
    """The formula above.

    Args:
        weight: of any shape.
        bits: b, 2 or more.
        dim: the axis of a channel's inputs, over which a scale is shared.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise InputError(f"bits={bits!r}; give a whole number from 2 to 16, e.g. 8 or 4")
    steps = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim, keepdim=True) / steps
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a channel of zeros stays so
    return (weight / scale).round() * scale


def quantized(model: Any, bits: int) -> Any:
    """A copy of a model with every matrix of attention and MLP rounded.

    Args:
        model: a `HookedTransformer` (a channel is one output of one head) or a bridge (one row of a linear layer).
        bits: how many, 2 to 16.

    Raises:
        InputError: if `bits` is out of range.
    """
    round_to_bits(torch.zeros(1), bits, 0)
    copy = clone(model)
    bridge = hooked.is_bridge(copy)
    with torch.no_grad():
        for name, weight in copy.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if "blocks." in name and weight.ndim >= 2 and (bridge or leaf.startswith(("W_", "_W_"))):
                weight.copy_(round_to_bits(weight, bits, -1 if bridge else -2))
    return copy
