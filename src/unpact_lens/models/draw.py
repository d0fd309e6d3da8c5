"""Draw tokens, and whole continuations, from a model's own next-token probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.models import hooked
from unpact_lens.models.batches import length_batches
from unpact_lens.models.generate import token_batch
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.memory import run_batch_tokens

Choose = Callable[[Float[Tensor, "batch d_vocab"]], Int[Tensor, " batch"]]
"""Function from next-token logits to the next token of each row."""


LARGE = 2**14
"""Vocabulary above which one random number is drawn for each row and not one for each token, which would take most of
the time. The tokens drawn for a seed differ between the two ways; their probabilities do not."""


def drawn(generator: torch.Generator, temperature: float = 1.0) -> Choose:
    """Return a function that draws the next token from the model's probabilities at a temperature.

    Args:
        generator: Source of randomness, on the CPU, so that a seed draws alike on every device.
        temperature: Factor by which logits are divided.
    """

    def choose(logits: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, " batch"]:
        p = (logits.double() / temperature).softmax(-1)  # [batch, d_vocab]
        if p.shape[-1] <= LARGE:
            return torch.multinomial(p.cpu(), 1, generator=generator)[:, 0]
        below = p.cumsum(-1)
        # The last sum may fall short of 1 by rounding; the share of it that is drawn may not.
        at = torch.rand(len(p), 1, generator=generator, dtype=p.dtype).to(p.device) * below[:, -1:]
        # Right of equal sums: a token of probability 0 is never drawn.
        return torch.searchsorted(below, at, right=True)[:, 0].clamp(max=p.shape[-1] - 1).cpu()

    return choose


def draw(
    model: HookedModel,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    seed: int,
    batch_tokens: int | None = None,
) -> list[tuple[int, ...]]:
    r"""Draw each next token from the model's probabilities: $y_k \sim p(\cdot \mid x, y_{<k})$, at temperature 1.

    End tokens do not stop a continuation.

    Args:
        model: Hooked causal model.
        contexts: Ids that the model reads for each continuation.
        max_new_tokens: Number of ids to draw for each context.
        seed: Random seed of the draws. They also depend on `batch_tokens`.
        batch_tokens: Largest number of tokens in one forward pass, padding included. If None, 4096, or less where the
            free memory is small; give a number where draws on several machines are to agree.

    Returns:
        The drawn ids of each context, in the order given.

    Raises:
        InputError: If `batch_tokens` is not a positive whole number.
    """
    lengths = [len(context) + max_new_tokens for context in contexts]
    budget = run_batch_tokens(model, batch_tokens, max(lengths, default=0))
    choose, device = drawn(torch.Generator().manual_seed(seed)), hooked.device_of(model)
    continuations: list[list[int]] = [[] for _ in contexts]
    with torch.inference_mode():
        for rows in length_batches(lengths, budget):
            texts = [contexts[row] for row in rows]
            batch = token_batch(model, texts, max_new_tokens)
            new = None
            for _ in range(max_new_tokens):
                new = choose(batch.read(new)).to(device)  # [row]
                for row, token in zip(rows, new.tolist(), strict=True):
                    continuations[row].append(token)
    return [tuple(ids) for ids in continuations]
