"""Choose how many tokens go through a model at once from the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from unpact_lens.models import hooked
from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS, check_batch_tokens
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded

MAX_BATCH_TOKENS = 8192
"""Largest batch; larger ones gain nothing."""

MIN_BATCH_TOKENS = 256
"""Smallest batch that is chosen; it can still be set lower."""

RUN_LONGEST = 512
"""Length of the longest text for which a run chooses its batches before the texts are written, in tokens."""

RUN_READ_OUT = 0.5
"""Logits over the vocabulary for each input token of a run: an answer is at most about half of its text."""


def run_batch_tokens(model: HookedModel, given: int | None, longest: int = 0) -> int:
    """Return the batch size of a whole run: as given, or the largest power of two that fits into the free memory.

    A number that is chosen is `DEFAULT_BATCH_TOKENS` at most, so that runs on machines with enough memory agree
    bitwise. Call it once, before the work: the free memory changes while a run goes on.

    Args:
        model: Model whose widths count; of an ensemble, the first member.
        given: Number of tokens that the caller asked for. If None, it is chosen; see `batch_tokens_for`.
        longest: Number of tokens of the longest text, if it is known. Below `RUN_LONGEST`, it has no effect.

    Raises:
        InputError: If the number given is not a positive whole number.
    """
    check_batch_tokens(given)
    if given is not None:
        return given
    first = (*hooked.members_of(model), model)[0]
    longest = min(max(longest, RUN_LONGEST), first.cfg.n_ctx)
    return min(DEFAULT_BATCH_TOKENS, batch_tokens_for(first, None, longest, read_out=RUN_READ_OUT))


def batch_tokens_for(
    model: HookedModel,
    given: int | None,
    longest: int,
    *,
    read_out: float = 1.0,
    scores: bool = True,
    passes: int = 1,
) -> int:
    """Return how many input tokens go into one forward pass: as given, or what fits into a quarter of the free memory.

    The result is a power of two from `MIN_BATCH_TOKENS` to `MAX_BATCH_TOKENS`, so that small changes of the free memory
    do not change the batches, and with them the last digits of results.

    Args:
        model: Model whose widths count: one layer's activations, and the logits.
        given: Number of tokens that the caller asked for. If None, it is chosen.
        longest: Number of tokens of the longest text.
        read_out: Logits over the vocabulary for each input token, from 0 to 1.
        scores: Whether attention scores are held in memory, as hooked models do.
        passes: Memory of each token, as a multiple of a plain forward pass.

    Raises:
        InputError: If the number given is not a positive whole number.
    """
    check_batch_tokens(given)
    if given is not None:
        return given
    weight = next(iter(model.parameters()))
    cfg, itemsize = model.cfg, weight.element_size()
    layer = 12 * cfg.d_model + 4 * (cfg.d_mlp or 4 * cfg.d_model) + (4 * cfg.n_heads * longest if scores else 0)
    # Logits, the part of them that is converted to fp32, and a copy.
    each = itemsize * layer + read_out * cfg.d_vocab * (2 * itemsize + 4)
    fitting = free_memory(hooked.device_of(model)) / 4 / each / passes
    return int(min(MAX_BATCH_TOKENS, max(MIN_BATCH_TOKENS, 2 ** int(math.log2(max(1.0, fitting))))))


def batch_tokens_for_rows(
    model: HookedModel, given: int | None, rows: Sequence[Encoded], *, scores: bool = True, passes: int = 1
) -> int:
    """Return `batch_tokens_for` texts of which the answer positions only are unembedded.

    Args:
        model: Model whose widths count.
        given: Number of tokens that the caller asked for. If None, it is chosen.
        rows: Encoded prompts with their answers, at least one.
        scores: Whether attention scores are held in memory, as hooked models do.
        passes: Memory of each token, as a multiple of a plain forward pass.
    """
    read_out = max(len(r.answer) / max(1, len(r.ids) - 1) for r in rows)
    longest = max(len(r.ids) for r in rows)
    return batch_tokens_for(model, given, longest, read_out=read_out, scores=scores, passes=passes)


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device, in bytes; of a GPU, with what PyTorch holds and does not use.

    In a container, the limit of its control group counts as well.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min(int(psutil.virtual_memory().available), *_group_room())


def _group_room() -> list[int]:
    """Return the room below the memory limits of this process's control groups; none outside a container."""
    found = []
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return found or [2**62]


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that memory ran out, on a GPU or in the CPU's allocator."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
