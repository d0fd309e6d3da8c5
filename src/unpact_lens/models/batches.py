"""Put rows of different lengths into batches of a limited number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from unpact_lens.errors import InputError

DEFAULT_BATCH_TOKENS = 4096
"""Default for the largest number of input tokens in one forward pass, padding included."""


def check_batch_tokens(given: object) -> None:
    """Refuse a batch size that is neither None nor a positive whole number.

    Raises:
        InputError: If it is something else, e.g. 0, a flag or a text.
    """
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise InputError(f"batch_tokens={given!r}; give a positive whole number of tokens")


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield batches of indices, sorted by length, of at most `batch_tokens` tokens each, padding included.

    An item that is longer than `batch_tokens` is a batch by itself.

    >>> list(length_batches([3, 9, 3, 2], batch_tokens=9))
    [[3, 0, 2], [1]]
    """
    check_batch_tokens(batch_tokens)
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad_right(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Return rows of ids as one `[batch, pos]` tensor, padded on the right with zeros (never seen by scored tokens)."""
    width = max(len(r) for r in rows)
    return torch.tensor([[*r, *([0] * (width - len(r)))] for r in rows], dtype=torch.long, device=device)
