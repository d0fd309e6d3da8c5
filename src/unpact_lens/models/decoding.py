"""Check that decoding with a KV cache gives the logits of decoding without one.

Some bridges return no cache (MPT, Falcon with ALiBi, Mamba) or lose positions in it. Generation then falls back to
reading each text again at every step, which is slower and always right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.independence import probe_tokens

DECODES = "_unpact_decodes_with_cache"
"""Attribute in which a model keeps the answer of `decodes_with_cache`."""

LENGTHS = (9, 5)
"""Numbers of tokens of the contexts that are decoded together, padded on the left."""

NEW = 4
"""Number of tokens that are added one by one."""


def tolerance(logits: Float[Tensor, "*shape"]) -> float:
    """Return the largest difference of logits that rounding explains: it scales with their size.

    In double precision it is that of fp32, in which transformers computes rotary positions and the softmax.
    """
    size = max(1.0, float(logits.abs().max()))
    return size * (1e-4 if logits.dtype in (torch.float32, torch.float64) else 0.05)


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply fp32 matrices in fp32: in TF32, another order of the same sums differs by more than the tolerance."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def decodes_with_cache(model: HookedModel) -> bool:
    """Return whether cached, batched, left-padded decoding gives the logits of one text at a time without a cache.

    The answer follows from the architecture. It is kept with the model object and its copies.

    Args:
        model: Hooked model that is not an ensemble.
    """
    kept = vars(model).get(DECODES)
    if kept is None:
        kept = cache_difference(model) is not None
        vars(model)[DECODES] = kept
    return bool(kept)


@runtime_checkable
class Readable(Protocol):
    """A batch of texts that is read step by step."""

    def read(self, new: Tensor | None) -> Tensor:
        """Read the contexts (`new` is None) or one new token for each row, and return the logits of the next."""


BatchOf = Callable[[HookedModel, Sequence[Sequence[int]], int], Readable]
"""Function from a model, contexts and the number of new tokens to a batch that decodes with a cache."""


def _hooked_batch(model: HookedModel, contexts: Sequence[Sequence[int]], new: int) -> Readable:
    from unpact_lens.models.generate import CachedBatch

    return CachedBatch(model, contexts)


def cache_difference(model: HookedModel, batch_of: BatchOf = _hooked_batch) -> float | None:
    """Return the largest difference between the logits of both ways of decoding; None if they do not agree.

    Args:
        model: Hooked model that is not an ensemble.
        batch_of: Function that makes the batch which decodes with a cache.
    """
    room = model.cfg.n_ctx - NEW
    lengths = [min(length, room) for length in LENGTHS]
    if room < 1:
        return None
    texts = [probe_tokens(model, 1, length + NEW, seed)[0] for seed, length in enumerate(lengths)]
    with torch.inference_mode():
        alone = [uncached(model, text, length) for text, length in zip(texts, lengths, strict=True)]
        try:
            contexts = [text[:length].tolist() for text, length in zip(texts, lengths, strict=True)]
            batch = batch_of(model, contexts, NEW)
            steps = [batch.read(None)]
            for k in range(NEW):
                new = torch.stack([text[length + k] for text, length in zip(texts, lengths, strict=True)])
                steps.append(batch.read(new))
        except Exception:
            # What a bridge raises without a cache differs between architectures; any error means that it has none.
            return None
    together = torch.stack(steps, dim=1)  # [row, 1 + new, d_vocab]
    expected = torch.stack(alone)
    difference = float((together - expected).abs().max())
    return difference if difference <= tolerance(expected) else None


def uncached(model: HookedModel, text: Tensor, start: int) -> Float[Tensor, "read d_vocab"]:
    """Return the next-token logits of one text from its position `start - 1` to its last, from one forward pass."""
    positions = torch.arange(start - 1, len(text), device=text.device)[None]
    return hooked.logits_at(model, text[None], positions)[0]
