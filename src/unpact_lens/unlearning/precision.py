"""Train in less memory: half-precision arithmetic and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache

from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning.settings import Settings


@contextmanager
def economical(model: HookedModel, settings: Settings) -> Iterator[None]:
    """Run the model with `settings.precision` and `settings.recompute` inside a `with` block.

    The last block is never recomputed: hooks that drop its unneeded positions are gone by the backward pass.

    Args:
        model: Hooked model.
        settings: Precision and gradient checkpointing.
    """
    blocks = list(getattr(model, "blocks", ()))[:-1] if settings.recompute else []
    for block in blocks:
        # Set past `__setattr__`: a bridge would pass it on to the module inside.
        block.__dict__["forward"] = _recomputed(block.forward)
    try:
        with torch.autocast(hooked.device_of(model).type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
            yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a block's `forward` that is run again in the backward pass."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # A cache would grow once more when the block is run again, and training has no past to read.
        kept: dict[str, Any] = {k: None if isinstance(value, Cache) else value for k, value in kwargs.items()}
        return checkpoint(partial(forward, **kept), *args, use_reentrant=False)

    return run
