"""Make pairs of models: one, and a copy with moved weights."""

from __future__ import annotations

import torch

from tests.conftest import STYLES, tiny
from tests.decomposition.test_decompose import qwen2
from unpact_lens.models.checkpoint import clone

FAMILIES = (*STYLES, "qwen2")
"""Random models of each family; qwen2 has biases on queries, keys and values, and an embedding that is tied."""


def moved(model, size=0.1, seed=7):
    """Copy a model and move every weight by a random step."""
    after = clone(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in after.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype))
    return after


def pair(style="gpt2", dtype=torch.float64, **overrides):
    before = qwen2(dtype) if style == "qwen2" else tiny(style, dtype=dtype, **overrides)
    after = moved(before)
    if style == "qwen2":
        with torch.no_grad():
            after.unembed.W_U.copy_(after.embed.W_E.T)
    return before, after
