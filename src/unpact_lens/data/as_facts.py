"""Read the facts that a public function is given, in any form that `from_pairs` reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.data.chat import Chat
from unpact_lens.data.custom import Source, from_pairs, read_items
from unpact_lens.errors import InputError

FactSource = Benchmark | Source
"""Facts in any form: a `Benchmark`, a list of `QA`, or anything that `from_pairs` reads."""

FactTable = (
    os.PathLike[str] | pd.DataFrame | Mapping[str, object] | Sequence[QA | tuple[str, object] | Mapping[str, object]]
)
"""Facts in a form that is neither a benchmark nor the text of a prompt."""

FORMS = "the path of a csv, json, jsonl or parquet file, or a list of (prompt, answer) pairs"
"""Forms of facts that an error message offers."""

RAW_TEXT = ", or raw text as Corpus([...])"
"""What an error message offers besides where raw text is read."""


def as_facts(source: FactSource, what: str, *, chat: Chat = False, raw: str = "") -> tuple[QA, ...]:
    """Read facts as `QA` items, in the order of their rows.

    Args:
        source: Facts. Items that are `QA` stay as they are. A benchmark gives its forget facts.
        what: Name of the argument, for error messages.
        chat: If the chat template separates prompt and answer, answers of a table get no leading space.
        raw: Further form that an error message offers.

    Raises:
        InputError: If the source holds no facts, or a row is wrong. The message names the row and what to give.

    >>> as_facts({"Where is Oslo?": "Norway"}, "facts")
    (QA(“Where is Oslo?” → “Norway”, forget, row 1),)
    """
    if isinstance(source, Benchmark):
        return source.forget
    given = _table(source, what, raw)
    if isinstance(given, list) and all(isinstance(row, QA) for row in given):
        return tuple(given)
    return read_items(given, what, chat=chat)


def as_benchmark(source: FactSource, what: str = "bench", *, chat: Chat = False) -> Benchmark:
    """Read facts as a benchmark, with the items to keep split by subject, as `from_pairs` does.

    Args:
        source: Facts. A benchmark stays as it is. A fact without a group is to be forgotten.
        what: Name of the argument, for error messages.
        chat: If True, prompts go through the tokenizer's chat template.

    Raises:
        InputError: If the source holds no facts, or a row is wrong. The message names the row and what to give.

    >>> as_benchmark([("Where is Oslo?", "Norway")])
    Benchmark('facts': 1 forget, 0 near, 0 far, 0 general, 0 unknown)
    """
    if isinstance(source, Benchmark):
        return source
    return from_pairs(read_items(_table(source, what), what, chat=chat), name="facts", chat=chat)


def as_source(source: FactSource | Corpus, what: str, *, chat: Chat = False) -> tuple[QA, ...] | Corpus:
    """Read what a method trains on: facts in any form, or raw text.

    Args:
        source: Facts or raw text. A benchmark is refused: only the caller knows which of its facts are meant.
        what: Name of the argument, for error messages.
        chat: If the chat template separates prompt and answer, answers of a table get no leading space.

    Raises:
        InputError: If the source is neither, or a row is wrong. The message names the row and what to give.
    """
    if isinstance(source, Corpus):
        return source
    if isinstance(source, Benchmark):
        raise InputError(f"{what} is a Benchmark; give its facts, e.g. {what}=bench.{what}")
    return as_facts(source, what, chat=chat, raw=RAW_TEXT)


def as_questions(source: FactSource, what: str) -> Iterable[object]:
    """Read facts for a function that also takes pairs of token ids: `QA` items, and pairs as they are.

    The answers of pairs get no leading space here, so that results equal those of one prompt and answer. An iterator is
    not read ahead.

    Args:
        source: Facts, or pairs of token ids.
        what: Name of the argument, for error messages.

    Raises:
        InputError: If the source holds no facts, or a row is wrong. The message names the row and what to give.
    """
    if isinstance(source, Iterator):
        return source
    if isinstance(source, (list, tuple)) and not any(isinstance(row, Mapping) for row in source):
        return source
    return as_facts(source, what)


def as_pair(row: object, what: str, number: int) -> tuple[object, object]:
    """Return an item of `as_questions` that is no `QA` as prompt and answer.

    Args:
        row: Item.
        what: Name of the argument, for error messages.
        number: Number of the item, from 1.

    Raises:
        InputError: If it is no pair.
    """
    if isinstance(row, (tuple, list)) and len(row) == 2:
        return row[0], row[1]
    raise InputError(
        f"{what}, row {number}: {row!r:.60} is no question with its answer; give (prompt, answer), or a QA"
    )


def _table(source: Source, what: str, raw: str = "") -> Source:
    """Return a source that `read_items` reads; what is read one row at a time becomes a list.

    Raises:
        InputError: If it is none.
    """
    if isinstance(source, (str, os.PathLike)):
        if not _is_file(source):
            raise InputError(f"{what}={str(source)!r:.60} is no file; give {FORMS}{raw}")
        return source
    if isinstance(source, (pd.DataFrame, Mapping)):
        return source
    if isinstance(source, Iterable):
        return list(source)
    wrong = "raw text, which holds no questions" if isinstance(source, Corpus) else f"a {type(source).__name__}"
    raise InputError(f"{what} is {wrong}; give {FORMS}{raw}")


def _is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a text is the path of a file. A text that is too long for a path is none."""
    try:
        return Path(path).is_file()
    except OSError:
        return False
