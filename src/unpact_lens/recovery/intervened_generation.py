"""Answers under interventions, or drawn at random: what the cached greedy generator does not offer.

Algorithm: at each step read every context with what was generated so far, padded on the right, and unembed the last
real position. Nothing is cached, so that an intervention applies to every position at every step: T forward passes for
T new tokens, where the cached generator needs one and T short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.attribution.units import text_of
from unpact_lens.models import hooked
from unpact_lens.models.generate import most_likely
from unpact_lens.models.hooked import Hooks
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, length_batches, pad_right

Choose = Callable[[Float[Tensor, "batch d_vocab"]], Int[Tensor, " batch"]]

STOP = "\n"
"""An answer ends here, as everywhere in this library."""


def drawn(generator: torch.Generator, temperature: float = 1.0) -> Choose:
    """Choice in proportion to the model's probabilities at a temperature."""

    def choose(logits: Tensor) -> Tensor:
        return torch.multinomial((logits.double() / temperature).softmax(-1).cpu(), 1, generator=generator)[:, 0]

    return choose


def continuations(
    model: Any,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    choose: Choose = most_likely,
    hooks: Callable[[list[int], int], Hooks] | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[str]:
    """What the model says after each context, as text up to a line's end.

    Args:
        model: a hooked model with a tokenizer.
        contexts: for each prompt all ids that the model reads.
        max_new_tokens: how many ids to generate at most.
        choose: from next-token logits to the next token.
        hooks: from the contexts in a batch and its width to the interventions on it.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        One text a context, in the order given.
    """
    new: list[list[int]] = [[] for _ in contexts]
    texts = ["" for _ in contexts]
    given = [len(text_of(model, c)) for c in contexts]
    running = list(range(len(contexts)))
    eos, device = model.tokenizer.eos_token_id, hooked.device_of(model)
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            going: list[int] = []
            for batch in length_batches([len(contexts[i]) + len(new[i]) for i in running], batch_tokens):
                rows = [running[b] for b in batch]
                ids = [(*contexts[i], *new[i]) for i in rows]
                tokens = pad_right(ids, device)
                last = torch.tensor([[len(r) - 1] for r in ids])
                edits = hooks(rows, tokens.shape[1]) if hooks else ()
                chosen = choose(hooked.logits_at(model, tokens, last, edits)[:, 0])
                for i, token in zip(rows, chosen.tolist(), strict=True):
                    if token == eos:
                        continue
                    new[i].append(token)
                    texts[i] = text_of(model, (*contexts[i], *new[i]))[given[i] :]
                    if STOP not in texts[i]:
                        going.append(i)
            running = sorted(going)
            if not running:
                break
    return [text.split(STOP)[0] for text in texts]
