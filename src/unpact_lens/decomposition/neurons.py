"""Compute what each MLP neuron adds to the answer's logit."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def neuron_values(
    post: Float[Tensor, "answer d_mlp"],
    W_out: Float[Tensor, "d_mlp d_model"],
    direction: Float[Tensor, "answer d_model"],
) -> Float[Tensor, "d_mlp answer"]:
    """Multiply each neuron's activation by its output weights along the answer's direction. Logits.

    The sum over neurons, plus `b_out` along the same direction, is what the MLP adds.
    """
    return post.T * (W_out @ direction.T)
