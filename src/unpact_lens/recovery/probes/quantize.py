r"""Round the weights, and see whether a fact comes back because the change that hid it was small.

Weights are rounded to nearest, symmetrically, with one scale for each channel. With $s = \max|w| / (2^{b-1} - 1)$ over
the inputs of a channel, $\hat w = s \cdot \mathrm{round}(w / s)$. A channel is one output of a matrix. Every weight
matrix of attention and MLP is rounded. Embeddings, norms, biases and the unembedding keep their precision, as is usual.
Computation stays in the weights' own type.

Source: Zhang et al. 2024, arXiv 2410.16454 (quantisation brings unlearned knowledge back), with round-to-nearest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError, NoEffectError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.weight_matrices import WeightMatrix
from unpact_lens.recovery.changed_weights import asked_of_copies, with_changed_matrices
from unpact_lens.recovery.probes.registry import WEIGHTS, AnswerRow, Scene, probe

SOURCE = "Zhang et al. 2024, arXiv 2410.16454"


@probe("quantize_8", family=WEIGHTS, line="rounds every matrix of attention and MLP to 8 bits", source=SOURCE)
def quantize_8(scene: Scene) -> list[AnswerRow]:
    """Ask the plain prompts with weights of 8 bits."""
    return asked_of_copies(scene, "quantize_8", [lambda model: quantized(model, 8)])


@probe("quantize_4", family=WEIGHTS, line="rounds every matrix of attention and MLP to 4 bits", source=SOURCE)
def quantize_4(scene: Scene) -> list[AnswerRow]:
    """Ask the plain prompts with weights of 4 bits."""
    return asked_of_copies(scene, "quantize_4", [lambda model: quantized(model, 4)])


def round_to_bits(weight: Float[Tensor, "*axes"], bits: int, dim: int | tuple[int, ...]) -> Float[Tensor, "*axes"]:
    """Round a weight by the formula above.

    Args:
        weight: Weight of any shape.
        bits: Number of bits b, from 2 to 16.
        dim: Axes of a channel's inputs. One scale is shared along them.

    Raises:
        InputError: If `bits` is out of range, or the weight has no such axis.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise InputError(f"bits={bits!r}; give a whole number from 2 to 16, e.g. 8 or 4")
    for axis in (dim,) if isinstance(dim, int) else dim:
        if not -weight.ndim <= axis < weight.ndim:
            raise InputError(f"dim={dim!r}; give axes of the weight, which has {weight.ndim}")
    if not weight.numel():
        raise InputError(f"the weight of shape {tuple(weight.shape)} is empty; give one with values")
    steps = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim, keepdim=True) / steps
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a channel of zeros stays zero
    return (weight / scale).round() * scale


def quantized(model: HookedModel, bits: int) -> HookedModel:
    """Return a copy of a model with every matrix of attention, MLP and experts rounded.

    The matrices are found by the type of their module (`unpact_lens.models.weight_matrices`). A channel is one row of a
    linear layer, one column of GPT-2's `Conv1D`, or one output of an expert. In a `HookedTransformer` it holds the same
    numbers.

    Args:
        model: Model to copy. It is not changed.
        bits: Number of bits, from 2 to 16.

    Raises:
        InputError: If `bits` is out of range.
        NoEffectError: If rounding changes no weight, because all lie on such a grid already.
    """
    round_to_bits(torch.zeros(1), bits, 0)

    def rounded(matrix: WeightMatrix) -> Tensor:
        return round_to_bits(matrix.weight, bits, matrix.inputs)

    return with_changed_matrices(
        model, rounded, f"rounding to {bits} bits", "the weights are rounded already; use fewer bits", NoEffectError
    )
