"""Training in less memory: half-precision arithmetic and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from unpact_lens.models import surface
from unpact_lens.unlearning.settings import Settings


@contextmanager
def economical(model: Any, settings: Settings) -> Iterator[None]:
    """Inside the block the model runs as `settings.precision` and `settings.recompute` say.

    The last block is never recomputed: hooks that drop its unneeded positions are gone by the backward pass.

    Args:
        model: a hooked model.
        settings: precision and recomputation.
    """
    blocks = list(getattr(model, "blocks", ()))[:-1] if settings.recompute else []
    for block in blocks:
        block.forward = _recomputed(block.forward)
    try:
        with torch.autocast(surface.device_of(model).type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
            yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
