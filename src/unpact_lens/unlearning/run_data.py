"""Read what a run is to forget and to keep, from its own arguments or from a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unpact_lens.data.as_facts import FactSource, as_source
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.data.chat import Chat
from unpact_lens.data.custom import from_pairs
from unpact_lens.data.splits import KEPT
from unpact_lens.errors import InputError
from unpact_lens.unlearning.dataset import Source


@dataclass(frozen=True)
class Sources:
    """Hold the data of a run.

    Attributes:
        forget: Data to forget.
        retain: Data to keep, or None.
        facts: Questions on what is to be forgotten, which decide when to stop. Empty where there are none.
        kept: The same for what is to be kept: those that a retain floor watches.
        held_out: Whether these are validation facts, which no method trains on.
    """

    forget: Source
    retain: Source | None
    facts: tuple[QA, ...]
    kept: tuple[QA, ...]
    held_out: bool = False


def to_forget(source: FactSource | Corpus, chat: Chat) -> Source | Benchmark:
    """Return what is to be forgotten: a benchmark, raw text, or questions.

    Args:
        source: The caller's argument. A table with facts to keep becomes a benchmark. In a list of `QA`, all are to be
            forgotten.
        chat: The caller's chat template, which decides how the answers of a table are read.

    Raises:
        InputError: If it holds no facts, or a row is wrong.
    """
    if isinstance(source, Benchmark):
        return source
    given = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else source
    found = as_source(given, "forget", chat=chat)
    written = isinstance(given, list) and all(isinstance(row, QA) for row in given)
    if isinstance(found, Corpus) or written or not any(q.group in KEPT for q in found):
        return found
    return from_pairs(found, name="facts", chat=chat)


def sources(forget: Source | Benchmark, retain: Source | None) -> Sources:
    """Return the data of a run, from its own arguments or from a benchmark.

    Raises:
        InputError: If a benchmark is unlearned from its corpus and has none.
    """
    if not isinstance(forget, Benchmark):
        return Sources(forget, retain, questions(forget), questions(retain))
    bench = forget
    if bench.unlearn_from == "questions":
        kept = bench.retain if retain is None else retain
        # A floor on facts that are trained on would never be reached.
        watched = bench.validation or kept if retain is None else kept
        held_out = retain is None and bool(bench.validation)
        return Sources(bench.forget, kept, questions(bench.forget), questions(watched), held_out)
    if bench.forget_corpus is None:
        raise InputError(
            f"benchmark {bench.name!r} is unlearned from its corpus, which is not loaded; give load_benchmark() path= "
            "or corpora=, or give unlearn() the questions themselves, bench.forget"
        )
    return Sources(
        bench.forget_corpus, bench.retain_corpus if retain is None else retain,
        questions(bench.forget), questions(bench.validation or bench.retain) if retain is None else questions(retain),
        retain is None and bool(bench.validation),
    )  # fmt: skip


def questions(source: Source | None) -> tuple[QA, ...]:
    """Return a source's questions; raw text has none."""
    return () if source is None or isinstance(source, Corpus) else tuple(source)
