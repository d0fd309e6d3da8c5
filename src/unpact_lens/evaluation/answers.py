"""Ask a model the questions of a benchmark, once for all metrics, and judge whether an answer contains its fact.

The *fact span* decides whether a fact is right. A match of the whole answer misleads: a model that breaks the first
token of every sentence and keeps every fact would count as having forgotten everything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.units import character_spans
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, encode, text_ids
from unpact_lens.results import Result
from unpact_lens.scoring import forced_rows

CASE_MATTERS_UP_TO = 3
"""Facts of at most this many characters are matched case-sensitively: 'No' is nobelium, 'no' is a word."""


@dataclass(frozen=True, eq=False)
class Answers(Result):
    """Hold one model's answers to questions, and its log-probabilities of the gold answers.

    Attributes:
        items: The questions.
        generated: Greedy answer to each plain prompt.
        token_log_probs: For each question, log p of each gold answer token given those before it, nats.
        token_right: For each question, True for gold answer tokens that are the most likely one.
        fact_tokens: For each question, `(start, end)` of the gold answer tokens that overlap the fact.
        settings: Chat template, answer prefix, length and batch budget.
    """

    items: tuple[QA, ...]
    generated: tuple[str, ...]
    token_log_probs: tuple[Float[Tensor, " _"], ...]
    token_right: tuple[Bool[Tensor, " _"], ...]
    fact_tokens: tuple[tuple[int, int], ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def each(self, judge: Callable[[str, QA], float]) -> Float[Tensor, " item"]:
        """Apply a function of a generated answer and its question to every answer."""
        return torch.tensor([float(judge(g, q)) for g, q in zip(self.generated, self.items, strict=True)])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each question: gold and generated answer, fact right, LP(x, y) in nats."""
        return pd.DataFrame(
            {
                "id": [q.id for q in self.items],
                "prompt": [q.prompt for q in self.items],
                "gold": [q.answer for q in self.items],
                "generated": self.generated,
                "right": [fact_right(g, q) for g, q in zip(self.generated, self.items, strict=True)],
                "log_prob": [float(t.mean()) for t in self.token_log_probs],
            }
        )


def answer_all(
    model: HookedModel, items: Sequence[QA], *, bench: Benchmark, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> Answers:
    """Ask a model every question once: one greedy generation and one teacher-forced pass serve all metrics.

    Args:
        model: Hooked model with a tokenizer.
        items: Questions of any group.
        bench: Benchmark that says how to ask: chat template, answer prefix, length of an answer.
        batch_tokens: Largest number of input tokens in one forward pass.

    Returns:
        The answers, in the order of `items`.

    Raises:
        InputError: If there are no questions, one is too long for the model's context, or a fact has no token.
    """
    if not items:
        raise InputError(f"benchmark {bench.name!r} has no questions to ask; give at least one QA")
    prefills = [prefill_for(bench, q) for q in items]
    rows = [encode(model, q.prompt, q.answer, chat=bench.chat, prefill=p) for q, p in zip(items, prefills, strict=True)]
    spans = tuple(fact_tokens(model, q) for q in items)
    generated = ask(model, [q.prompt for q in items], prefills, bench=bench, batch_tokens=batch_tokens)
    forced = forced_rows(model, rows, batch_tokens=batch_tokens)
    return Answers(
        items=tuple(items),
        generated=tuple(generated),
        token_log_probs=tuple(log_probs for log_probs, _ in forced),
        token_right=tuple(right for _, right in forced),
        fact_tokens=spans,
        settings={
            "chat": bench.chat,
            "prefill": bench.prefill,
            "max_new_tokens": bench.max_new_tokens,
            "batch_tokens": batch_tokens,
        },
    )


def ask(
    model: HookedModel,
    prompts: Sequence[str],
    prefills: Sequence[str],
    *,
    bench: Benchmark,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[str]:
    """Generate greedy answers to prompts as the benchmark asks; equal prompts with equal prefixes are asked once.

    Args:
        model: Hooked model with a tokenizer.
        prompts: The prompts.
        prefills: Answer prefix of each prompt.
        bench: Benchmark that gives the chat template and the length of an answer.
        batch_tokens: Largest number of input tokens in one forward pass.

    Returns:
        One answer for each prompt.
    """
    pairs = list(zip(prompts, prefills, strict=True))
    distinct = list(dict.fromkeys(pairs))
    texts = generate_answers(
        model,
        [prompt for prompt, _ in distinct],
        chat=bench.chat,
        prefills=[prefill for _, prefill in distinct],
        max_new_tokens=bench.max_new_tokens,
        batch_tokens=batch_tokens,
    )
    answered = dict(zip(distinct, texts, strict=True))
    return [answered[pair] for pair in pairs]


def prefill_for(bench: Benchmark, qa: QA) -> str:
    """Return the answer prefix of a question under the plain prompt."""
    return bench.prefill.replace("{subject}", qa.subject)


def fact_tokens(model: HookedModel, qa: QA) -> tuple[int, int]:
    """Return the range `(start, end)` of the gold answer's tokens that overlap its fact span.

    Raises:
        InputError: If no token does.
    """
    ids = text_ids(model, qa.answer, "answer")
    start, end = qa.fact_span or (0, len(qa.answer))
    spans = character_spans(model, ids, qa.answer)
    inside = [k for k, (low, high) in enumerate(spans) if low < end and high > start]
    if not inside:
        raise InputError(f"QA {qa.id or qa.prompt!r}: no token of the answer {qa.answer!r} lies in its fact span")
    return inside[0], inside[-1] + 1


def normalise(text: str, *, keep_case: bool = False) -> str:
    """Normalise a text for comparison: words and single blanks only, no accents, no commas in numbers, lower case.

    >>> normalise(" São Tomé, pop. 1,000! ")
    'sao tome pop 1000'
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\d),(?=\d)", "", plain)
    return re.sub(r"[\W_]+", " ", plain if keep_case else plain.casefold()).strip()


def holds_fact(text: str, fact: str) -> bool:
    """Return whether a text contains a fact as whole words, normalised; short facts are matched case-sensitively.

    >>> holds_fact("It is in Australia.", "Au"), holds_fact("The symbol is Au.", "Au"), holds_fact("no", "No")
    (False, True, False)
    """
    keep_case = len(fact.strip()) <= CASE_MATTERS_UP_TO
    wanted = normalise(fact, keep_case=keep_case)
    if not wanted:
        return fact.strip() in text
    return f" {wanted} " in f" {normalise(text, keep_case=keep_case)} "


def fact_right(generated: str, qa: QA) -> bool:
    """Return whether a generated answer contains the fact (fact-span match).

    Args:
        generated: Answer of the model.
        qa: Question whose `fact` is looked for.
    """
    return holds_fact(generated, qa.fact)


def require_pairs(generated: Sequence[str], other: Sequence[str]) -> None:
    """Check that there is one text for each answer.

    Raises:
        InputError: If the lists differ in length or are empty.
    """
    if len(generated) != len(other) or not generated:
        raise InputError(f"{len(generated)} answers beside {len(other)} texts; give one for each, and at least one")


def shown(text: str) -> str:
    """Return a text without outer blanks, as models of meaning read it; `"."` for an empty answer."""
    return text.strip() or "."
