"""Compare the weights of two models bit by bit."""

from __future__ import annotations

import torch
from torch import Tensor

from unpact_lens.models.checkpoint import named_weights
from unpact_lens.models.hooked import HookedModel


def same_weights(first: HookedModel, second: HookedModel) -> bool:
    """Return whether two models have equal named weights, bit by bit.

    Args:
        first: Hooked model.
        second: Hooked model.
    """
    ours, theirs = named_weights(first), named_weights(second)
    return ours.keys() == theirs.keys() and all(equal_numbers(ours[name], theirs[name]) for name in ours)


def equal_numbers(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold equal numbers, whatever their dtypes; the same memory is not read."""
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype:
        return a.data_ptr() == b.data_ptr() or torch.equal(a, b)
    wide = torch.promote_types(a.dtype, b.dtype)
    return torch.equal(a.to(wide), b.to(wide))
