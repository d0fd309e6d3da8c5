"""Train in less memory: half-precision arithmetic and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.source_model import source_model
from unpact_lens.unlearning.settings import Settings


@contextmanager
def economical(model: HookedModel, settings: Settings) -> Iterator[None]:
    """Run the model with `settings.precision` and `settings.recompute` inside a `with` block.

    The last block of the hooked model is never recomputed: hooks that drop its unneeded positions are gone by the
    backward pass. On a bridge, the layers of its source model are recomputed too, where training runs that.

    Args:
        model: Hooked model.
        settings: Precision and gradient checkpointing.
    """
    blocks: list[nn.Module] = list(getattr(model, "blocks", ()))[:-1] if settings.recompute else []
    source = source_model(model, with_gradients=True) if settings.recompute else None
    if source is not None:
        blocks += [m for m in source.hf.modules() if isinstance(m, GradientCheckpointingLayer)]
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
        named: dict[str, Any] = {k: None if isinstance(value, Cache) else value for k, value in kwargs.items()}
        given = (None if isinstance(value, Cache) else value for value in args)
        # Nothing is drawn: models that drop activations are refused.
        return checkpoint(partial(forward, **named), *given, use_reentrant=False, preserve_rng_state=False)

    return run
