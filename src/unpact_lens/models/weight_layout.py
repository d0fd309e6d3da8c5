"""Lay the weights of a `HookedTransformer` out in memory in the order in which TransformerLens reads them.

TransformerLens keeps `W_Q` as `[head, d_model, d_head]` and `W_O` as `[head, d_head, d_model]`, and the matrices of a
gated MLP as `[in, out]`. At each forward pass it copies them into the order of `torch.nn.Linear`, `[out, in]`. For a
short text on a CPU these copies take longer than everything else. Here the memory is put in that order once; names,
shapes and values stay, and what TransformerLens asks for is then a view. The products are the same to the last bit.

In half precision this holds for `W_U` too. In full precision `hooked.project` unembeds without TransformerLens's copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

OUT_IN: dict[str, tuple[int, ...]] = {
    "W_Q": (0, 2, 1), "W_K": (0, 2, 1), "W_V": (0, 2, 1), "_W_K": (0, 2, 1), "_W_V": (0, 2, 1), "W_O": (2, 0, 1),
}  # fmt: skip
"""Order of the dimensions in which attention reads each weight."""

TRANSPOSED = {"GatedMLP": ("W_gate", "W_in", "W_out"), "Unembed": ("W_U",)}
"""Matrices that a module reads transposed. A plain MLP reads its matrices as they are kept."""


def lay_out(model: torch.nn.Module) -> None:
    """Put the memory of attention and gated MLP weights in the order in which they are read.

    Args:
        model: `HookedTransformer` whose weights share no memory with another model. Shapes and values stay.
    """
    for module in model.modules():
        kind = type(module).__name__
        orders = {**OUT_IN, **dict.fromkeys(TRANSPOSED.get(kind, ()), (1, 0))}
        for name, weight in module.named_parameters(recurse=False):
            kept = kind == "Unembed" and weight.dtype in (torch.float32, torch.float64)
            if name in orders and weight.ndim == len(orders[name]) and not kept:
                weight.data = _in_memory_order(weight.data, orders[name])


def _in_memory_order(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return an equal tensor whose permutation by `order` is contiguous."""
    back = [order.index(dim) for dim in range(len(order))]
    return tensor.permute(order).contiguous().permute(back)
