"""Pairs of models: one, and the same after its weights moved."""

from __future__ import annotations

import torch

from tests.conftest import tiny
from unpact_lens.models.checkpoint import clone


def moved(model, size=0.1, seed=7):
    """A copy of the model whose every weight moved by a random step."""
    after = clone(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in after.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype))
    return after


def pair(style="gpt2", dtype=torch.float64, **overrides):
    before = tiny(style, dtype=dtype, **overrides)
    return before, moved(before)
