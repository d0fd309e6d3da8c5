"""Compute what each attention head adds to the answer's logit, in total and from each source token.

`W_O` is projected on the answer's direction first (`[head, d_head, T]`). No tensor of size `[head, pos, d_model]` is
ever built, which keeps time and memory small.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def read_out(
    W_O: Float[Tensor, "head d_head d_model"], direction: Float[Tensor, "answer d_model"]
) -> Float[Tensor, "head d_head answer"]:
    """Project `W_O` on the direction: what each dimension of a head's value adds to the answer's logit."""
    return torch.einsum("hed,td->het", W_O, direction)


def head_values(
    z: Float[Tensor, "answer head d_head"], read: Float[Tensor, "head d_head answer"]
) -> Float[Tensor, "head answer"]:
    """Compute what each head adds, its own `b_V` included: its mixed value `z`, read out. Logits."""
    return torch.einsum("the,het->ht", z, read)


def source_values(
    pattern: Float[Tensor, "head answer source"],
    v: Float[Tensor, "source kv_head d_head"],
    read: Float[Tensor, "head d_head answer"],
) -> Float[Tensor, "head source answer"]:
    r"""Compute what each head moves from each source token into the answer's logit.

    $A_{ts}\,(v_s \cdot W_O d_t)$. The sum over sources is `head_values`. With grouped queries, each value head serves
    several consecutive query heads.
    """
    v = v.repeat_interleave(read.shape[0] // v.shape[1], dim=1)  # [source, head, d_head]
    return torch.einsum("she,het->hst", v, read) * pattern.transpose(1, 2)
