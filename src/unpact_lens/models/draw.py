"""Draw continuations from a model's own next-token probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.models.decoding import decodes_with_cache
from unpact_lens.models.generate import CachedBatch, UncachedBatch
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, length_batches


def draw(
    model: HookedModel,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    seed: int,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[tuple[int, ...]]:
    r"""Draw each next token from the model's probabilities: $y_k \sim p(\cdot \mid x, y_{<k})$, at temperature 1.

    End tokens do not stop a continuation.

    Args:
        model: Hooked causal model.
        contexts: Ids that the model reads for each continuation.
        max_new_tokens: Number of ids to draw for each context.
        seed: Random seed of the draws. They also depend on `batch_tokens`.
        batch_tokens: Largest number of tokens in one forward pass, padding included.

    Returns:
        The drawn ids of each context, in the order given.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[list[int]] = [[] for _ in contexts]
    with torch.inference_mode():
        for rows in length_batches([len(context) + max_new_tokens for context in contexts], batch_tokens):
            texts = [contexts[row] for row in rows]
            batch = CachedBatch(model, texts) if decodes_with_cache(model) else UncachedBatch(model, texts)
            new = None
            for _ in range(max_new_tokens):
                chances = batch.read(new).double().softmax(-1).cpu()  # [row, d_vocab]
                picked = torch.multinomial(chances, 1, generator=generator)[:, 0]  # [row]
                for row, token in zip(rows, picked.tolist(), strict=True):
                    drawn[row].append(token)
                new = picked.to(next(iter(model.parameters())).device)
    return [tuple(ids) for ids in drawn]
