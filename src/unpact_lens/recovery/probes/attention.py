r"""Emphasis without a word changed: every head attends more to the key tokens.

With gain g on the key positions K, the attention of a query t becomes

$$A'_{ts} = \frac{w_s A_{ts}}{\sum_{s'} w_{s'} A_{ts'}}, \qquad w_s = g \text{ if } s \in K \text{ else } 1,$$

which is the same as adding $\log g$ to the attention scores of K before the softmax. g = 1 changes nothing, and there
is no wording that could itself bring a fact back or break an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.units import character_spans
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, Encoded, encode_context
from unpact_lens.recovery.intervened_generation import Hooks, continuations

GAIN = 4.0
"""By how much attention to the key tokens is multiplied unless said otherwise; fixed before any run."""


def scale_attention(
    pattern: Float[Tensor, "batch head query key"], emphasised: Bool[Tensor, "batch key"], gain: float
) -> Float[Tensor, "batch head query key"]:
    """The formula above.

    Args:
        pattern: attention after the softmax; rows sum to 1.
        emphasised: True on the key positions.
        gain: g, > 0; above 1 is more attention.
    """
    weight = torch.where(emphasised, gain, 1.0).to(pattern)[:, None, None]
    scaled = pattern * weight
    return scaled / scaled.sum(-1, keepdim=True)


def word_positions(model: Any, prompt: str, example: Encoded, words: Sequence[str]) -> tuple[int, ...]:
    """Positions in the input whose tokens belong to a word, wherever the prompt has it as a whole.

    Args:
        model: gives the tokenizer.
        prompt: the text of the prompt.
        example: the same, encoded.
        words: words of the prompt.
    """
    places = [m.span() for w in words for m in re.finditer(rf"(?<!\w){re.escape(w)}(?!\w)", prompt)]
    spans = character_spans(model, example.prompt, prompt)
    first = len(example.head)
    return tuple(
        first + i for i, (start, end) in enumerate(spans) if any(max(a, start) < min(b, end) for a, b in places)
    )


def attend_to(
    model: Any,
    items: Sequence[QA],
    words: Sequence[Sequence[str]],
    *,
    bench: Benchmark,
    gain: float = GAIN,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[str]:
    """Greedy answers to the plain prompts while every head attends more to some words of them.

    Args:
        model: a hooked model with a tokenizer; it is not changed.
        items: the questions.
        words: for each, the words of its prompt to attend to; none leaves that question as it is.
        bench: how to ask: chat template, prefill, length of an answer.
        gain: factor on the attention to them before rows are made to sum to 1 again.
        batch_tokens: bound on the tokens of one batch.

    Raises:
        InputError: if the gain is not a positive number, or there are not as many lists of words as questions.
    """
    if not 0 < gain < float("inf"):
        raise InputError(f"gain={gain}; give a positive number: 1 changes nothing, 4 is four times the attention")
    if len(words) != len(items):
        raise InputError(f"{len(words)} lists of words for {len(items)} questions; give one for each")
    rows = [encode_context(model, q.prompt, chat=bench.chat, prefill=prefill_for(bench, q)) for q in items]
    places = [word_positions(model, q.prompt, r, w) for q, r, w in zip(items, rows, words, strict=True)]

    def hooks(batch: list[int], width: int) -> Hooks:
        mask = torch.zeros(len(batch), width, dtype=torch.bool)
        for row, i in enumerate(batch):
            mask[row, list(places[i])] = True
        return attention_hooks(model, mask, gain)

    return continuations(
        model,
        [r.context for r in rows],
        max_new_tokens=bench.max_new_tokens,
        hooks=hooks,
        batch_tokens=batch_tokens,
    )


def attention_hooks(model: Any, emphasised: Bool[Tensor, "batch key"], gain: float) -> Hooks:
    """Interventions for a `run_with_hooks`: `scale_attention` in every head of every layer."""

    def scale(pattern: Tensor, hook: Any) -> Tensor:
        return scale_attention(pattern, emphasised.to(pattern.device), gain)

    edit: Callable[..., Any] = scale
    return [(f"blocks.{layer}.attn.hook_pattern", edit) for layer in range(model.cfg.n_layers)]
