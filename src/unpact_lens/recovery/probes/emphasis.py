"""Emphasised prompts: the words that matter most to the answer, said in a way that was fixed before the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unpact_lens.attribution import KeyRule, attribute_many
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS, HEADLINE
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import holds_fact

ORACLE, ANSWER_FREE, AFTER = "oracle", "answer_free", "after"
KEY_SOURCES = (ORACLE, ANSWER_FREE, AFTER)
"""KeyTokens of the model before towards the gold answer, or towards what it answers itself; KeyTokens of the unlearned
model, towards the gold answer."""


def check_templates(templates: Sequence[str] | None, headline: str = HEADLINE) -> tuple[str, ...]:
    """The emphasis templates of a run, in order.

    Args:
        templates: names of `EMPHASIS`; None for all of them.
        headline: the one that is reported first.

    Raises:
        InputError: if a name is unknown, or the headline is not among them.
    """
    if isinstance(templates, str):
        raise InputError(f"templates={templates!r} is one text; give a list of names, e.g. templates=[{templates!r}]")
    chosen = tuple(EMPHASIS) if templates is None else tuple(dict.fromkeys(templates))
    for name in (*chosen, headline):
        EMPHASIS[name]
    if headline not in chosen:
        raise InputError(f"headline {headline!r} is not one of the templates of this run; {nearest(headline, chosen)}")
    return chosen


def key_words(
    model: Any,
    items: Sequence[QA],
    bench: Benchmark,
    *,
    rule: KeyRule,
    key_tokens: str = ORACLE,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> list[tuple[str, ...]]:
    """For each question the words of its prompt that hold its KeyTokens, in the prompt's order.

    A prompt is emphasised by whole words; a KeyToken that is a piece of a word stands for the word.

    Args:
        model: whose KeyTokens are wanted: the model before unlearning, or the unlearned one.
        items: the questions.
        bench: how to ask: chat template, prefill, length of an answer.
        rule: which tokens are key.
        key_tokens: of `KEY_SOURCES`: `"answer_free"` is towards the model's own greedy answer, all else towards the
            gold one.
        batch_tokens: bound on the tokens of one batch.
        progress: show a bar.
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
    """The prompt with emphasis; None where the template needs words and there are none.

    Args:
        template: its name.
        prompt: the plain prompt.
        words: what to emphasise.
    """
    entry = EMPHASIS[template]
    return entry.apply(prompt, words) if words or not entry.needs_words else None


def leaks(qa: QA, prompt: str, prefill: str) -> bool:
    """Whether a prompt, or the opening of the answer that goes with it, gives the fact away."""
    return holds_fact(prompt, qa.fact) or holds_fact(prefill, qa.fact)
