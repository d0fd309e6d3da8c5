r"""Make every head attend more to the key tokens: emphasis without changing a word.

With gain g on the key positions K, the attention of a query t becomes

$$A'_{ts} = \frac{w_s A_{ts}}{\sum_{s'} w_{s'} A_{ts'}}, \qquad w_s = g \text{ if } s \in K \text{ else } 1,$$

which equals adding $\log g$ to the attention scores of K before the softmax. g = 1 changes nothing. No wording is
added that could itself bring a fact back or break an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from unpact_lens.attribution.units import character_spans
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.batches import check_batch_tokens
from unpact_lens.models.hooked import HookedModel, Hooks
from unpact_lens.models.tokens import Encoded, encode_context
from unpact_lens.recovery.controls import random_words
from unpact_lens.recovery.intervened_generation import continuations
from unpact_lens.recovery.probes.registry import COMPUTATION, Answered, AnswerRow, Scene, probe
from unpact_lens.recovery.probing import GAIN, check_gain
from unpact_lens.recovery.result import RANDOM_WORDS

ATTENTION = "attention"


def require_attention_hooks(model: HookedModel, feature: str = f"probe {ATTENTION!r}") -> None:
    """Refuse a model on which changed attention patterns change nothing.

    Args:
        model: Hooked model.
        feature: What needs the hooks, for the message.

    Raises:
        InputError: If it is such a model.
    """
    require_acting_hooks(
        model, _pattern_hooks(model), feature=feature,
        remedy="load the model with wrap='hooked' where that is supported, or leave this probe out of probes=",
    )  # fmt: skip


@probe(
    ATTENTION,
    family=COMPUTATION,
    line="multiplies every head's attention to the key tokens",
    source="unpact-lens",
    check=require_attention_hooks,
)
def attention(scene: Scene) -> list[AnswerRow]:
    """Ask with more attention to the key words, and as a control to as many random words."""
    random = [random_words(q, key, scene.probing.seed) for q, key in zip(scene.items, scene.keys, strict=True)]
    return [_attending(scene, ATTENTION, scene.keys), _attending(scene, f"{RANDOM_WORDS}:{ATTENTION}", random)]


def _attending(scene: Scene, row: str, words: Sequence[Sequence[str]]) -> AnswerRow:
    """Ask all facts with more attention to some words."""
    everything = torch.ones(len(scene.items), dtype=torch.bool)

    def answer(model: HookedModel) -> Answered:
        gain, budget = scene.probing.gain, scene.probing.batch_tokens
        texts = attend_to(model, scene.items, words, bench=scene.bench, gain=gain, batch_tokens=budget)
        return scene.judged(texts, everything)

    return AnswerRow(row, torch.tensor([bool(w) for w in words]), answer)


def scale_attention(
    pattern: Float[Tensor, "batch head query key"], emphasised: Bool[Tensor, "batch key"], gain: float
) -> Float[Tensor, "batch head query key"]:
    """Scale attention patterns by the formula above.

    Args:
        pattern: Attention after the softmax. Rows sum to 1.
        emphasised: True on the key positions.
        gain: Factor g, above 0. Values above 1 give more attention.
    """
    weight = torch.where(emphasised, gain, 1.0).to(pattern)[:, None, None]  # [batch, 1, 1, key]
    scaled = pattern * weight
    return scaled / scaled.sum(-1, keepdim=True)


def word_positions(model: HookedModel, prompt: str, example: Encoded, words: Sequence[str]) -> tuple[int, ...]:
    """Return the input positions of the tokens that belong to some words.

    Only whole words of the prompt match.

    Args:
        model: Model that gives the tokenizer.
        prompt: Prompt as text.
        example: The same prompt, tokenised.
        words: Words of the prompt.
    """
    places = [m.span() for w in words for m in re.finditer(rf"(?<!\w){re.escape(w)}(?!\w)", prompt)]
    spans = character_spans(model, example.prompt, prompt, example.prompt_spans)
    first = len(example.head)
    return tuple(
        first + i for i, (start, end) in enumerate(spans) if any(max(a, start) < min(b, end) for a, b in places)
    )


def attend_to(
    model: HookedModel,
    items: Sequence[QA],
    words: Sequence[Sequence[str]],
    *,
    bench: Benchmark,
    gain: float = GAIN,
    batch_tokens: int | None = None,
) -> list[str]:
    """Generate greedy answers to the plain prompts while every head attends more to some words.

    Args:
        model: Hooked model with a tokenizer. It is not changed.
        items: Questions.
        words: For each question, the words of its prompt to attend to. An empty list leaves the question unchanged.
        bench: Benchmark that gives the chat template, the answer prefix and the answer length.
        gain: Factor on the attention to the words, before rows are normalised to sum to 1 again.
        batch_tokens: Largest number of input tokens in one forward pass. If None, 4096, or less where the
            free memory is small.

    Raises:
        InputError: If the gain is 1 or not a positive number, the numbers of word lists and questions differ, none of
            the words is in its prompt, changed attention patterns have no effect on this model, or `batch_tokens` is
            not a positive whole number.
    """
    check_gain(gain)
    check_batch_tokens(batch_tokens)
    if len(words) != len(items):
        raise InputError(f"{len(words)} lists of words for {len(items)} questions; give one for each")
    rows = [encode_context(model, q.prompt, chat=bench.chat, prefill=prefill_for(bench, q)) for q in items]
    places = [word_positions(model, q.prompt, r, w) for q, r, w in zip(items, rows, words, strict=True)]
    require_attention_hooks(model, "attend_to")
    if items and not any(places):
        raise InputError(
            f"attend_to would change nothing: no prompt holds its words, e.g. {list(words[0])} in {items[0].prompt!r}; "
            "give whole words of the prompts"
        )

    def hooks(batch: list[int], width: int) -> Hooks:
        mask = torch.zeros(len(batch), width, dtype=torch.bool)
        for row, i in enumerate(batch):
            mask[row, list(places[i])] = True
        return attention_hooks(model, mask, gain)

    return continuations(
        model,
        [r.context for r in rows],
        max_new_tokens=bench.max_new_tokens,
        stop=bench.stop,
        hooks=hooks,
        batch_tokens=batch_tokens,
    )


def attention_hooks(model: HookedModel, emphasised: Bool[Tensor, "batch key"], gain: float) -> Hooks:
    """Return hooks that apply `scale_attention` in every head of every layer."""

    def scale(pattern: Tensor, hook: HookPoint) -> Tensor:
        return scale_attention(pattern, emphasised.to(pattern.device), gain)

    edit: Callable[..., Tensor] = scale
    return [(name, edit) for name in _pattern_hooks(model)]


def _pattern_hooks(model: HookedModel) -> list[str]:
    """Return the hook names of all attention patterns."""
    return [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
