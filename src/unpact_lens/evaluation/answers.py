"""Ask a model the questions of a benchmark, once for all metrics, and judge whether an answer contains its fact.

The *fact span* decides whether a fact is right. A match of the whole answer misleads: a model that breaks the first
token of every sentence and keeps every fact would count as having forgotten everything.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.units import character_spans
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.display import joined, quoted
from unpact_lens.errors import InputError
from unpact_lens.evaluation.fact_matching import Match, match_fact
from unpact_lens.evaluation.text_folding import fold, shape
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, continuation_ids, encode
from unpact_lens.results import Result
from unpact_lens.scoring import forced_rows


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

    def _brief(self) -> str:
        return joined([f"{len(self.items)} answers", quoted(self.generated[0], 40) if self.generated else ""])

    def each(self, judge: Callable[[str, QA], float]) -> Float[Tensor, " item"]:
        """Apply a function of a generated answer and its question to every answer."""
        return torch.tensor([float(judge(g, q)) for g, q in zip(self.generated, self.items, strict=True)])

    @property
    def matches(self) -> tuple[Match, ...]:
        """Return, for each question, whether its generated answer gives the fact, or mentions it only negated."""
        return tuple(fact_match(g, q) for g, q in zip(self.generated, self.items, strict=True))

    @property
    def negated(self) -> Bool[Tensor, " item"]:
        """Return whether each generated answer mentions its fact only to deny it; such a fact is not right."""
        return torch.tensor([m.negated for m in self.matches], dtype=torch.bool)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each question.

        Gold and generated answer, fact right, fact only mentioned negated, LP(x, y) in nats.
        """
        return pd.DataFrame(
            {
                "id": [q.id for q in self.items],
                "prompt": [q.prompt for q in self.items],
                "gold": [q.answer for q in self.items],
                "generated": self.generated,
                "right": [m.given for m in self.matches],
                "negated": [m.negated for m in self.matches],
                "log_prob": [float(t.mean()) for t in self.token_log_probs],
            }
        )


def answer_all(
    model: HookedModel, items: Sequence[QA], *, bench: Benchmark, batch_tokens: int | None = None
) -> Answers:
    """Ask a model every question once: one greedy generation and one teacher-forced pass serve all metrics.

    Args:
        model: Hooked model with a tokenizer.
        items: Questions of any group.
        bench: Benchmark that says how to ask: chat template, answer prefix, length of an answer.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Returns:
        The answers, in the order of `items`. If a gold answer is longer than the limit, the limit is raised for all of
        them, with a warning.

    Raises:
        InputError: If there are no questions, one is too long for the model's context, or a fact has no token.
    """
    if not items:
        raise InputError(f"benchmark {bench.name!r} has no questions to ask; give at least one QA")
    bench = with_room(model, bench, items)
    prefills = [prefill_for(bench, q) for q in items]
    rows = [encode(model, q.prompt, q.answer, chat=bench.chat, prefill=p) for q, p in zip(items, prefills, strict=True)]
    spans = tuple(fact_tokens(model, row, q) for row, q in zip(rows, items, strict=True))
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
            "stop": list(bench.stop),
            "batch_tokens": batch_tokens,
            **shared_tokens(rows),
        },
    )


def shared_tokens(rows: Sequence[Encoded]) -> dict[str, int]:
    """Return the number of questions with a note, e.g. of a token that prompt and answer share; nothing if 0."""
    count = sum(bool(row.notes) for row in rows)
    return {"with_notes": count} if count else {}


def ask(
    model: HookedModel,
    prompts: Sequence[str],
    prefills: Sequence[str],
    *,
    bench: Benchmark,
    batch_tokens: int | None = None,
) -> list[str]:
    """Generate greedy answers to prompts as the benchmark asks; equal prompts with equal prefixes are asked once.

    Args:
        model: Hooked model with a tokenizer.
        prompts: The prompts.
        prefills: Answer prefix of each prompt.
        bench: Benchmark that gives the chat template, the length of an answer and the texts that end it.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Returns:
        One answer for each prompt.

    Raises:
        InputError: If the numbers of prompts and of prefixes differ.
    """
    if len(prompts) != len(prefills):
        raise InputError(f"{len(prompts)} prompts with {len(prefills)} prefills; give one prefill for each prompt")
    pairs = list(zip(prompts, prefills, strict=True))
    distinct = list(dict.fromkeys(pairs))

    def generate(wanted: Sequence[tuple[str, str]]) -> list[str]:
        return generate_answers(
            model,
            [prompt for prompt, _ in wanted],
            chat=bench.chat,
            prefills=[prefill for _, prefill in wanted],
            max_new_tokens=bench.max_new_tokens,
            stop=bench.stop,
            batch_tokens=batch_tokens,
        )

    store = _STORE.get()
    texts = generate(distinct) if store is None else store.answers(model, bench, distinct, generate)
    answered = dict(zip(distinct, texts, strict=True))
    return [answered[pair] for pair in pairs]


@runtime_checkable
class AnswerStore(Protocol):
    """Keep greedy answers, so that a question is asked once of a model, also after an interruption."""

    def answers(
        self,
        model: HookedModel,
        bench: Benchmark,
        wanted: Sequence[tuple[str, str]],
        generate: Callable[[Sequence[tuple[str, str]]], list[str]],
    ) -> list[str]:
        """Return one answer for each pair of prompt and answer prefix, and generate those that are not kept.

        Args:
            model: Model that is asked. Copies of it with other weights are other models.
            bench: Benchmark that says how to ask.
            wanted: Pairs of prompt and answer prefix.
            generate: Function that generates the answers to some of the pairs.
        """


_STORE: ContextVar[AnswerStore | None] = ContextVar("answer store", default=None)


@contextmanager
def answers_kept_in(store: AnswerStore) -> Iterator[None]:
    """Keep every greedy answer within the block in a store, and read those that it has."""
    token = _STORE.set(store)
    try:
        yield
    finally:
        _STORE.reset(token)


def with_room(model: HookedModel, bench: Benchmark, items: Sequence[QA] | None = None) -> Benchmark:
    """Return a benchmark whose limit of new tokens leaves room for every gold answer, with a warning if it did not.

    Args:
        model: Model whose tokenizer counts.
        bench: The benchmark.
        items: Questions that will be asked. If None, all of the benchmark's.
    """
    limit = room_for(model, bench.all_items() if items is None else items, bench.max_new_tokens)
    return bench if limit == bench.max_new_tokens else replace(bench, max_new_tokens=limit)


def room_for(model: HookedModel, items: Sequence[QA], max_new_tokens: int) -> int:
    """Return a limit of new tokens that leaves room for every gold answer.

    Warns if the given limit is too short: a fact at the end of a long answer would count as wrong without being wrong.

    Args:
        model: Model whose tokenizer counts.
        items: Questions that will be asked.
        max_new_tokens: Limit to begin with.
    """
    lengths = [len(continuation_ids(model, q.answer, "answer")) for q in items]
    longest = max(lengths, default=0)
    if longest <= max_new_tokens:
        return max_new_tokens
    qa = items[lengths.index(longest)]
    warnings.warn(
        f"the gold answer of QA {qa.id or qa.prompt!r} has {longest} tokens, max_new_tokens={max_new_tokens}; "
        f"asking for up to {longest} tokens instead",
        stacklevel=3,
    )
    return longest


def prefill_for(bench: Benchmark, qa: QA) -> str:
    """Return the answer prefix of a question under the plain prompt."""
    return bench.prefill.replace("{subject}", qa.subject)


def fact_tokens(model: HookedModel, row: Encoded, qa: QA) -> tuple[int, int]:
    """Return the range `(start, end)` of the gold answer's tokens that overlap its fact span.

    Args:
        model: Model whose tokenizer is used.
        row: The question's prompt and gold answer, tokenised by `encode`.
        qa: The question.

    Raises:
        InputError: If no token does.
    """
    start, end = qa.fact_span or (0, len(qa.answer))
    spans = character_spans(model, row.answer, qa.answer, row.answer_spans)
    inside = [k for k, (low, high) in enumerate(spans) if low < end and high > start]
    if not inside:
        raise InputError(f"QA {qa.id or qa.prompt!r}: no token of the answer {qa.answer!r} lies in its fact span")
    return inside[0], inside[-1] + 1


def normalise(text: str, *, keep_case: bool = False) -> str:
    """Normalise a text of any script for comparison: words and single blanks only, folded (see `text_folding.fold`).

    >>> normalise(" São Tomé, pop. 1,000! "), normalise("が") == normalise("か")
    ('sao tome pop 1000', False)
    """
    return " ".join(shape(fold(text, keep_case=keep_case)).split())


def holds_fact(text: str, fact: str, aliases: Sequence[str] = ()) -> bool:
    """Return whether a text mentions a fact or one of its other names, negated or not. Leaks are found in this way.

    Args:
        text: Any text, in any script.
        fact: Text of the fact. Short facts are matched case-sensitively.
        aliases: Other names that count as the fact.

    >>> holds_fact("It is in Australia.", "Au"), holds_fact("The symbol is Au.", "Au"), holds_fact("no", "No")
    (False, True, False)
    """
    return match_fact(text, fact, aliases).mentioned


def fact_match(generated: str, qa: QA) -> Match:
    """Return whether a generated answer gives the fact, and whether it mentions it only negated.

    Args:
        generated: Answer of the model, one line or several.
        qa: Question whose `fact` and `aliases` are looked for.
    """
    return match_fact(generated, qa.fact, qa.aliases)


def fact_right(generated: str, qa: QA) -> bool:
    """Return whether a generated answer gives the fact (fact-span match). A fact that it only denies is not given.

    Args:
        generated: Answer of the model, one line or several.
        qa: Question whose `fact` and `aliases` are looked for.

    >>> fact_right("It is not Oslo.", QA("Where?", " Oslo")), fact_right("Christiania", QA("?", " Oslo"))
    (False, False)
    """
    return fact_match(generated, qa).given


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
