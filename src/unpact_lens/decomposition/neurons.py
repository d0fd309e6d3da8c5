"""MLP neurons: what each adds to the answer's logit."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def neuron_values(
    post: Float[Tensor, "answer d_mlp"],
    W_out: Float[Tensor, "d_mlp d_model"],
    direction: Float[Tensor, "answer d_model"],
) -> Float[Tensor, "d_mlp answer"]:
    """Activation of each neuron times its output weights along the answer's direction. Logits.

    Their sum and `b_out` along the same direction are what the MLP adds.
    """
    return post.T * (W_out @ direction.T)
