"""Compare the weights of two models bit by bit."""

from __future__ import annotations

import torch

from unpact_lens.models.checkpoint import named_weights
from unpact_lens.models.hooked import HookedModel


def same_weights(first: HookedModel, second: HookedModel) -> bool:
    """Return whether two models have equal named weights, bit by bit.

    Args:
        first: Hooked model.
        second: Hooked model.
    """
    ours, theirs = named_weights(first), named_weights(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
