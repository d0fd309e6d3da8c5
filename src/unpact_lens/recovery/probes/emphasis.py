"""Emphasise the key words of a prompt, in the wording of a fixed template."""

from __future__ import annotations

from collections.abc import Sequence

from unpact_lens.attribution import KeyRule, attribute_many
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.probing import ANSWER_FREE, ORACLE


def key_words(
    model: HookedModel,
    items: Sequence[QA],
    bench: Benchmark,
    *,
    rule: KeyRule,
    key_tokens: str = ORACLE,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> list[tuple[str, ...]]:
    """Return the words of each prompt that hold its KeyTokens, in the prompt's order.

    Prompts are emphasised by whole words. A KeyToken that is part of a word selects the whole word.

    Args:
        model: Model whose KeyTokens are wanted: the original or the unlearned model.
        items: Questions.
        bench: Benchmark that gives the chat template, the answer prefix and the answer length.
        rule: Rule that selects the key tokens.
        key_tokens: One of `KEY_SOURCES`. `"answer_free"` attributes to the model's own greedy answer, other values to
            the gold answer.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it follows from the free memory.
        progress: If True, show a progress bar.
    """
    attributions = attribute_many(
        model,
        items,
        chat=bench.chat,
        prefill=bench.prefill,
        max_new_tokens=bench.max_new_tokens,
        answer_free=key_tokens == ANSWER_FREE,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    return [a.key_tokens(rule).words for a in attributions]


def emphasised(template: str, prompt: str, words: Sequence[str]) -> str | None:
    """Return the prompt with emphasis, or None if the template needs words and there are none.

    Args:
        template: Name of the template.
        prompt: Plain prompt.
        words: Words to emphasise.
    """
    entry = EMPHASIS[template]
    return entry.apply(prompt, words) if words or not entry.needs_words else None
