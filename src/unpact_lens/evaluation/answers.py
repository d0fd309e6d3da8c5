"""What a model answers, generated once and teacher-forced once, and how one answer is judged.

The *fact span* is what decides whether a fact is right. Whole-answer match misleads: a model that breaks the first
token of every sentence and keeps every fact would count as having forgotten all.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from unpact_lens.attribution.units import character_spans
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, encode, text_ids
from unpact_lens.results import Result
from unpact_lens.scoring import forced_rows

CASE_MATTERS_UP_TO = 3
"""Facts of at most this many characters are matched with their case: 'No' is nobelium, 'no' is a word."""


@dataclass(frozen=True, eq=False)
class Answers(Result):
    """What one model says to a set of questions, and how likely it holds the gold answers.

    Attributes:
        items: the questions.
        generated: the greedy answer to each plain prompt.
        token_log_probs: for each question, log p of each gold answer token given those before it, nats.
        token_right: for each question, whether each gold answer token is the most likely one.
        fact_tokens: for each question, `(start, end)` of the gold answer tokens that carry the fact.
        settings: chat template, prefill, length and batch budget.
    """

    items: tuple[QA, ...]
    generated: tuple[str, ...]
    token_log_probs: tuple[Float[Tensor, " _"], ...]
    token_right: tuple[Bool[Tensor, " _"], ...]
    fact_tokens: tuple[tuple[int, int], ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row a question: gold answer, generated answer, whether the fact is in it, LP(x, y) in nats."""
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
    model: Any, items: Sequence[QA], *, bench: Benchmark, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> Answers:
    """Ask a model every question once: one greedy generation and one teacher-forced pass serve all metrics.

    Args:
        model: a hooked model with a tokenizer.
        items: the questions, of any group.
        bench: how to ask: chat template, prefill, length of an answer.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        The answers, in the order of `items`.

    Raises:
        InputError: if there are no questions, one is too long for the model's context, or a fact has no token.
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
    model: Any,
    prompts: Sequence[str],
    prefills: Sequence[str],
    *,
    bench: Benchmark,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[str]:
    """Greedy answers to prompts as the benchmark asks; a prompt that occurs twice with one prefill is asked once.

    Args:
        model: a hooked model with a tokenizer.
        prompts: the questions.
        prefills: the opening of each answer.
        bench: chat template and length of an answer.
        batch_tokens: bound on the tokens of one batch.
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
    """What the answer to a question is made to start with under the plain prompt."""
    return bench.prefill.replace("{subject}", qa.subject)


def fact_tokens(model: Any, qa: QA) -> tuple[int, int]:
    """Which tokens of the gold answer carry its fact: `(start, end)`, every token that overlaps the span.

    Raises:
        InputError: if no token does.
    """
    ids = text_ids(model, qa.answer, "answer")
    start, end = qa.fact_span or (0, len(qa.answer))
    spans = character_spans(model, ids, qa.answer)
    inside = [k for k, (low, high) in enumerate(spans) if low < end and high > start]
    if not inside:
        raise InputError(f"QA {qa.id or qa.prompt!r}: no token of the answer {qa.answer!r} lies in its fact span")
    return inside[0], inside[-1] + 1


def normalise(text: str, *, keep_case: bool = False) -> str:
    """Text as it is compared: words only, one blank between them, no accents, no commas inside numbers, lower case.

    >>> normalise(" São Tomé, pop. 1,000! ")
    'sao tome pop 1000'
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\d),(?=\d)", "", plain)
    return re.sub(r"[\W_]+", " ", plain if keep_case else plain.casefold()).strip()


def holds_fact(text: str, fact: str) -> bool:
    """Whether a text holds a fact as whole words, normalised; the case of facts of up to three letters counts.

    >>> holds_fact("It is in Australia.", "Au"), holds_fact("The symbol is Au.", "Au"), holds_fact("no", "No")
    (False, True, False)
    """
    keep_case = len(fact.strip()) <= CASE_MATTERS_UP_TO
    wanted = normalise(fact, keep_case=keep_case)
    if not wanted:
        return fact.strip() in text
    return f" {wanted} " in f" {normalise(text, keep_case=keep_case)} "


def fact_right(generated: str, qa: QA) -> bool:
    """Fact-span match: whether a generated answer holds the fact.

    Args:
        generated: what the model said.
        qa: the question, whose `fact` is wanted.
    """
    return holds_fact(generated, qa.fact)


def exact_match(generated: str, qa: QA) -> bool:
    """Whether the whole generated answer is the gold answer, both normalised."""
    return normalise(generated) == normalise(qa.answer)


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def rouge(generated: str, qa: QA, which: str = "rougeL") -> tuple[float, float]:
    """ROUGE recall and F1 of a generated answer against the gold answer, with stemming.

    The words are those of rouge-score's own tokenizer, which reads ASCII letters and digits only.

    Args:
        generated: what the model said.
        qa: the question with its gold answer.
        which: `"rouge1"` or `"rougeL"`.

    Source: Lin 2004, through rouge-score.
    """
    score = _rouge().score(qa.answer, generated)[which]
    return float(score.recall), float(score.fmeasure)


def degenerate(text: str) -> bool:
    """Whether a text is no language any more: no letter or digit in it, or half of its word pairs repeat earlier ones.

    `1 − distinct pairs / pairs ≥ 1/2`, with words separated by blanks.

    Source: seq-rep-n of Welleck et al. 2019, arXiv 1908.04319, with n = 2.

    >>> degenerate("in Oslo in Oslo in Oslo"), degenerate(" ?!"), degenerate("New York, New York")
    (True, True, False)
    """
    if not normalise(text):
        return True
    words = text.split()
    pairs = list(itertools.pairwise(words))
    return bool(pairs) and 1 - len(set(pairs)) / len(pairs) >= 0.5
