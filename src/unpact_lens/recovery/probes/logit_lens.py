"""Logit lens as a probe: does some layer before the last already say the fact that the last one no longer says?

The residual stream after each block is read out by the model's own final norm and unembedding, at the position whose
next token is the first of the fact, given the gold answer's opening.

Source: nostalgebraist 2020, Interpreting GPT: the logit lens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.decomposition.lens import stream_hooks
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_tokens, prefill_for
from unpact_lens.models import hooked
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, encode, length_batches, pad_right


def lens_ranks(
    model: Any, items: Sequence[QA], *, bench: Benchmark, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> Int[Tensor, "item layer"]:
    """Rank of each fact's first token after each block, 1 for the most likely.

    Args:
        model: a hooked model with a tokenizer.
        items: the questions.
        bench: chat template and prefill.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        One column a block; the last is what the model itself says.

    Raises:
        InputError: if there are no questions, or one is too long for the model.
    """
    if not items:
        raise InputError("no questions; give the facts that were to be forgotten, e.g. bench.forget")
    rows = [encode(model, q.prompt, q.answer, chat=bench.chat, prefill=prefill_for(bench, q)) for q in items]
    starts = [fact_tokens(model, q)[0] for q in items]
    names = stream_hooks(model)[1:]  # what leaves each block: the embedding has read nothing but the last token
    ranks = torch.zeros(len(items), len(names), dtype=torch.long)
    device = hooked.device_of(model)
    with torch.inference_mode():
        for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
            tokens = pad_right([rows[i].ids[:-1] for i in batch], device)
            at = torch.tensor([len(rows[i].context) - 1 + starts[i] for i in batch], device=device)
            wanted = torch.tensor([rows[i].answer[starts[i]] for i in batch], device=device)
            streams = hooked.collect(model, tokens, names)
            for layer, name in enumerate(names):
                logits = hooked.unembed(model, streams[name][torch.arange(len(batch), device=device), at])
                ranks[batch, layer] = token_rank(logits, wanted).cpu()
    return ranks


def token_rank(logits: Tensor, wanted: Int[Tensor, " item"]) -> Int[Tensor, " item"]:
    """1 + how many tokens are more likely than the wanted one.

    Args:
        logits: `[item, d_vocab]`.
        wanted: one token an item.
    """
    return 1 + (logits > logits.gather(-1, wanted[:, None])).sum(-1)


def read_out_early(ranks: Int[Tensor, "item layer"]) -> Bool[Tensor, " item"]:
    """Whether the fact's first token is the most likely one after some block short of the last."""
    return (ranks[:, :-1] == 1).any(-1)
