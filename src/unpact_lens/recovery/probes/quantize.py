r"""Round the weights, and see whether a fact comes back because the change that hid it was small.

Weights are rounded to nearest, symmetrically, with one scale for each channel. With $s = \max|w| / (2^{b-1} - 1)$ over
the inputs of a channel, $\hat w = s \cdot \mathrm{round}(w / s)$. Every weight matrix of attention and MLP is rounded.
Embeddings, norms, biases and the unembedding keep their precision, as is usual. Computation stays in the weights' own
type.

Source: Zhang et al. 2024, arXiv 2410.16454 (quantisation brings unlearned knowledge back), with round-to-nearest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.plan import ask_sheet, plain_sheet
from unpact_lens.recovery.probes.registry import WEIGHTS, Answered, AnswerRow, Scene, probe

SOURCE = "Zhang et al. 2024, arXiv 2410.16454"


@probe("quantize_8", family=WEIGHTS, line="rounds every matrix of attention and MLP to 8 bits", source=SOURCE)
def quantize_8(scene: Scene) -> list[AnswerRow]:
    """Ask the plain prompts with weights of 8 bits."""
    return _rounded(scene, "quantize_8", 8)


@probe("quantize_4", family=WEIGHTS, line="rounds every matrix of attention and MLP to 4 bits", source=SOURCE)
def quantize_4(scene: Scene) -> list[AnswerRow]:
    """Ask the plain prompts with weights of 4 bits."""
    return _rounded(scene, "quantize_4", 4)


def _rounded(scene: Scene, name: str, bits: int) -> list[AnswerRow]:
    """Ask the plain prompts of a copy with rounded weights."""
    plain = plain_sheet(scene.items, scene.bench)

    def answer(model: HookedModel) -> Answered:
        copy = quantized(model, bits)
        return Answered(ask_sheet(copy, plain, plain.asked, scene.bench, scene.probing.batch_tokens)[0][0])

    return [AnswerRow(name, plain.asked[0], answer)]


def round_to_bits(weight: Float[Tensor, "*axes"], bits: int, dim: int) -> Float[Tensor, "*axes"]:
    """Round a weight by the formula above.

    Args:
        weight: Weight of any shape.
        bits: Number of bits b, from 2 to 16.
        dim: Axis of a channel's inputs. One scale is shared along it.

    Raises:
        InputError: If `bits` is out of range.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise InputError(f"bits={bits!r}; give a whole number from 2 to 16, e.g. 8 or 4")
    steps = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim, keepdim=True) / steps
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a channel of zeros stays zero
    return (weight / scale).round() * scale


def quantized(model: HookedModel, bits: int) -> HookedModel:
    """Return a copy of a model with every matrix of attention and MLP rounded.

    Args:
        model: Model to copy. In a `HookedTransformer`, a channel is one output of one head; in a bridge, one row of a
            linear layer.
        bits: Number of bits, from 2 to 16.

    Raises:
        InputError: If `bits` is out of range.
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
