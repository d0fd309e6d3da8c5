"""Generate answers under interventions or by sampling, which the generator with a KV cache does not offer.

Algorithm: each step reads every context with the tokens generated so far, padded on the right, and unembeds the last
real position. Nothing is cached, so an intervention applies to every position at every step. T new tokens take T full
forward passes. The cached generator needs one full pass and T short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.answer_end import end_ids
from unpact_lens.models.batches import length_batches, pad_right
from unpact_lens.models.draw import Choose
from unpact_lens.models.generate import before_stop, decoded, most_likely
from unpact_lens.models.hooked import HookedModel, Hooks
from unpact_lens.models.memory import run_batch_tokens


def continuations(
    model: HookedModel,
    contexts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = ("\n",),
    choose: Choose = most_likely,
    hooks: Callable[[list[int], int], Hooks] | None = None,
    batch_tokens: int | None = None,
) -> list[str]:
    """Generate a continuation of each context, as text up to a stop or the model's end token.

    Args:
        model: Hooked model with a tokenizer.
        contexts: For each prompt, all ids that the model reads.
        max_new_tokens: Largest number of tokens to generate.
        stop: Texts that end an answer.
        choose: Function from next-token logits to the next token.
        hooks: Function from the contexts in a batch and its width to the hooks of its forward pass.
        batch_tokens: Largest number of input tokens in one forward pass. If None, 4096, or less where the
            free memory is small.

    Returns:
        One text for each context, in the order given.

    Raises:
        InputError: If the model has no tokenizer, or `batch_tokens` is not a positive whole number.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("the model has no tokenizer, so it cannot answer in text; use greedy() on token ids")
    budget = run_batch_tokens(model, batch_tokens, max(map(len, contexts), default=0) + max_new_tokens)
    new: list[list[int]] = [[] for _ in contexts]
    texts = ["" for _ in contexts]
    given = [len(decoded(tokenizer, c)) for c in contexts]
    running = list(range(len(contexts)))
    ends, device = frozenset(end_ids(model)), hooked.device_of(model)
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            going: list[int] = []
            for batch in length_batches([len(contexts[i]) + len(new[i]) for i in running], budget):
                rows = [running[b] for b in batch]
                ids = [(*contexts[i], *new[i]) for i in rows]
                tokens = pad_right(ids, device)
                last = torch.tensor([[len(r) - 1] for r in ids])
                edits = hooks(rows, tokens.shape[1]) if hooks else ()
                chosen = choose(hooked.logits_at(model, tokens, last, edits)[:, 0])
                for i, token in zip(rows, chosen.tolist(), strict=True):
                    if token in ends:
                        continue
                    new[i].append(token)
                    texts[i] = decoded(tokenizer, (*contexts[i], *new[i]))[given[i] :]
                    if not any(s in texts[i] for s in stop):
                        going.append(i)
            running = sorted(going)
            if not running:
                break
    return [before_stop(text, stop) for text in texts]
