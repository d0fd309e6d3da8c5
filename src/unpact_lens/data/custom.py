"""Build a benchmark from your own table of questions and answers."""

from __future__ import annotations

import numbers
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from unpact_lens.data.benchmark import GROUPS, QA, Benchmark, benchmark, check_unique_ids
from unpact_lens.data.chat import Chat
from unpact_lens.data.question_kinds import kind_of
from unpact_lens.data.splits import KEPT, Facts, SplitRequest
from unpact_lens.data.table_reader import TEXTS, Column, Row, check_rows, raw_rows
from unpact_lens.errors import InputError

REFUSALS = (
    " I don't know.",
    " I'm not sure about that.",
    " I have no information about this.",
    " I cannot answer that question.",
    " That is something I don't know.",
)
"""Answers that decline, for benchmarks whose source provides none."""

SCHEMA = {
    "prompt": Column(),
    "answer": Column(),
    "group": Column(required=False),
    "kind": Column(required=False),
    "id": Column(required=False),
    "subject": Column(required=False),
    "fact": Column(required=False),
    "wrong_subject": Column(required=False),
    "paraphrases": Column(TEXTS, required=False),
    "perturbed": Column(TEXTS, required=False),
    "choices": Column(TEXTS, required=False),
    "aliases": Column(TEXTS, required=False),
}
"""Columns that are read. `fact` is the part of the answer that carries the fact. The others are fields of `QA`."""


Source = str | os.PathLike[str] | pd.DataFrame | Mapping[str, object] | Iterable[object]
"""What `from_pairs` reads: a file, a table, `{prompt: answer}`, or an iterable of rows."""


def from_pairs(
    source: Source,
    *,
    name: str = "pairs",
    retain_split: SplitRequest = "auto",
    split_seed: int = 0,
    **options: Any,
) -> Benchmark:
    """Build a benchmark from a table of questions and answers, with the items to keep split by subject.

    Only `prompt` (or `question`) and `answer` are required. An item without a `group` is to be forgotten; the group
    `"retain"` means `"far"`. An item without a `kind` gets it from the rule in `question_kinds.py`. An answer without a
    leading blank gets one leading space, because prompt and answer are joined as they are; with `chat`, where the
    template separates them, it stays as it is. Numbers are read as text. Columns that are not read are warned of.

    Args:
        source: A csv, json, jsonl or parquet file; a DataFrame or `datasets.Dataset`; a list of `(prompt, answer)`,
            dicts or `QA`; or `{prompt: answer}`. In a csv, lists are written as JSON.
        name: Name of the benchmark.
        retain_split: Shares of the subjects for trained, validation and unseen items, as in `load_benchmark`. Items
            without a subject are subjects of their own.
        split_seed: Random seed of the split.
        **options: Further fields of `Benchmark`, e.g. `chat=True`.

    Returns:
        The benchmark.

    Raises:
        InputError: If a row is wrong (the message names file, row and column), `Benchmark` has no such option, or
            there are too few subjects for the shares given.

    >>> from_pairs([("Where is Oslo?", "Norway"), ("When was NATO founded?", 1949)]).forget[1].answer
    ' 1949'
    """
    known = {f.name for f in fields(Benchmark)} - _FROM_THE_TABLE
    if unknown := sorted(options.keys() - known):
        raise InputError(f"unknown option {unknown[0]!r} of from_pairs; known are {', '.join(sorted(known))}")
    items = read_items(source, f"the {type(source).__name__}", chat=options.get("chat", False))
    whole = Benchmark(
        name=name,
        forget=tuple(q for q in items if q.group == "forget"),
        retain=Facts(q for q in items if q.group in KEPT),
        general=tuple(q for q in items if q.group == "general"),
        unknown=tuple(q for q in items if q.group == "unknown"),
        **{"refusals": REFUSALS, **options},
    )
    return whole.split(retain_split, split_seed)


def read_items(source: Source, what: str, *, chat: Chat = False) -> tuple[QA, ...]:
    """Read the items of a table of questions and answers, in the order of its rows.

    Args:
        source: Any source that `from_pairs` reads. A `QA` in it is kept; without an id, it gets that of its row.
        what: Name of the source in error messages. A file has its own.
        chat: If the chat template separates prompt and answer, answers get no leading space.

    Raises:
        InputError: If the source is no table, a row is wrong, or an id occurs twice.
    """
    where = str(source) if isinstance(source, (str, os.PathLike)) else what
    items = tuple(
        row if isinstance(row, QA) else _item(row, number, where, blank=not chat)
        for number, row in enumerate(_rows(source, where), start=1)
    )
    check_unique_ids(items)
    return items


_FROM_THE_TABLE = {"name", "forget", "retain", "validation", "unseen", "general", "unknown"}
"""Fields of `Benchmark` that `from_pairs` fills."""


@benchmark("pairs")
def load_pairs(
    *,
    path: str | os.PathLike[str] | None = None,
    name: str = "pairs",
    chat: Chat = False,
    prefill: str = "",
    max_new_tokens: int = 24,
    stop: Sequence[str] = ("\n",),
) -> Benchmark:
    """Load a table as `load_benchmark("pairs", path="my.csv")`, by `from_pairs`.

    Args:
        path: A csv, json, jsonl or parquet file.
        name: Name of the benchmark.
        chat: If True, prompts go through the tokenizer's chat template.
        prefill: Text that each generated answer starts with. May hold `{subject}`.
        max_new_tokens: Maximum length of a generated answer, in tokens.
        stop: Texts that end a generated answer. `()` for answers of several lines.

    Returns:
        The benchmark.

    Raises:
        InputError: If no path is given, or a row is wrong.
    """
    if path is None:
        raise InputError("benchmark 'pairs' is a table of your own; give path=<a csv, json, jsonl or parquet file>")
    return from_pairs(
        path, name=name, retain_split=None, chat=chat, prefill=prefill, max_new_tokens=max_new_tokens, stop=stop
    )


_EITHER = {**SCHEMA, "prompt": Column(required=False), "question": Column(required=False)}
"""Columns that a table may have. One of `prompt` and `question` is required."""


def _rows(source: Source, where: str) -> list[Row | QA]:
    """Read the rows of any source, as checked rows or as the `QA` that were given."""
    raw = unchecked_rows(source, where)
    _warn_of_unread(raw, where)
    given = [row if isinstance(row, QA) else None for row in raw]
    tables = [_as_text(row, where, number) for number, row in enumerate(raw, start=1) if not isinstance(row, QA)]
    checked = iter(check_rows(tables, _EITHER, where)) if tables or not given else iter(())
    rows: list[Row | QA] = []
    for number, qa in enumerate(given, start=1):
        if qa is not None:
            rows.append(qa if qa.id else replace(qa, id=f"row {number}"))
            continue
        row = next(checked)
        question = row.pop("question")
        row["prompt"] = row["prompt"] or question
        if row["prompt"] is None:
            raise InputError(f"{where}, row {number}: neither 'prompt' nor 'question' is given")
        rows.append(row)
    return rows


def unchecked_rows(source: Source, where: str) -> list[object]:
    """Return the rows of a source, unchecked.

    Args:
        source: File, table, `{prompt: answer}`, or rows.
        where: Name of the source, for error messages.

    Raises:
        InputError: If the source has several tables, or is none.
    """
    if isinstance(source, pd.DataFrame):
        return list(source.to_dict("records"))
    if isinstance(source, (str, os.PathLike)):
        return list(raw_rows(Path(source)))
    if isinstance(source, Mapping):
        if "answer" in source and {"prompt", "question"} & source.keys():
            raise InputError(f"{where} holds columns, not {{prompt: answer}}; give rows, or a DataFrame of it")
        tables = [name for name, part in source.items() if hasattr(part, "column_names")]
        if tables:
            raise InputError(f"{where} has the tables {', '.join(tables)}; give one of them, e.g. data[{tables[0]!r}]")
        return [{"prompt": prompt, "answer": answer} for prompt, answer in source.items()]
    if isinstance(source, Iterable):
        return list(source)
    raise InputError(f"{where} is no table; give a file, a DataFrame, or a list of (prompt, answer)")


def pair_as_row(row: object, where: str, number: int) -> object:
    """Return a pair as `{"prompt": ..., "answer": ...}`, and anything else as it is.

    Args:
        row: Row of a source.
        where: Name of the source, for error messages.
        number: Number of the row, from 1.

    Raises:
        InputError: If it is a list or a tuple of another length.
    """
    if not isinstance(row, (tuple, list)):
        return row
    if len(row) != 2:
        raise InputError(f"{where}, row {number}: {row!r:.60} is no pair; give (prompt, answer), or a dict")
    return {"prompt": row[0], "answer": row[1]}


def _as_text(row: object, where: str, number: int) -> Row:
    """Return a pair as a row, and the numbers of a row as text. A single alias is a list of one.

    Raises:
        InputError: If it is neither a pair nor a mapping.
    """
    row = pair_as_row(row, where, number)
    if not isinstance(row, Mapping):
        raise InputError(
            f"{where}, row {number}: {row!r:.60} is no question with its answer; give (prompt, answer), a dict with "
            "'prompt' and 'answer', or a QA"
        )
    texts: Row = {}
    for name, value in row.items():
        kind = _EITHER[name].type if name in _EITHER else None
        if kind == TEXTS and isinstance(value, str) and not value.lstrip().startswith("["):
            value = [value]
        elif kind == TEXTS and isinstance(value, (list, tuple)):
            value = [_number_as_text(v) for v in value]
        elif kind is not None:
            value = _number_as_text(value)
        texts[str(name)] = value
    return texts


def _number_as_text(value: object) -> object:
    """Return a number as text, 1949.0 as "1949"; anything else is unchanged."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value:
        return value
    if isinstance(value, numbers.Integral):
        return str(int(value))
    return str(int(float(value))) if float(value).is_integer() else str(value)


def _warn_of_unread(rows: Sequence[object], where: str) -> None:
    """Warn of columns that are not read, and say which column holds the group of an item."""
    tables = [row for row in rows if isinstance(row, Mapping)]
    unread = sorted({str(name) for row in tables for name in row} - _EITHER.keys())
    if not unread:
        return
    text = f"{where}: not read are the columns {', '.join(unread)}; known are {', '.join(_EITHER)}"
    for name in unread:
        values = {str(row.get(name)) for row in tables}
        if "group" not in tables[0] and values <= {*GROUPS, "retain", "None"} and values != {"None"}:
            text += f". Column {name!r} looks like the group of each item: name it 'group'"
    warnings.warn(text, stacklevel=4)


def _item(row: Row, number: int, where: str, *, blank: bool) -> QA:
    answer, choices = row["answer"], row["choices"] or ()
    if f" {answer}" in choices or (blank and not answer[:1].isspace()):
        answer = f" {answer}"
        choices = tuple(choice if choice[:1].isspace() else f" {choice}" for choice in choices)
    group = {"retain": "far", None: "forget"}.get(row["group"], row["group"])
    if group not in GROUPS:
        raise InputError(
            f"{where}, row {number}: column 'group' is {group!r}; known are {', '.join((*GROUPS, 'retain'))}"
        )
    return QA(
        prompt=row["prompt"],
        answer=answer,
        paraphrases=row["paraphrases"] or (),
        kind=row["kind"] or kind_of(row["prompt"], answer),
        id=row["id"] or f"row {number}",
        subject=row["subject"] or f"row {number}",
        fact_span=_span(row["fact"], answer, f"{where}, row {number}") if row["fact"] else None,
        group=group,
        wrong_subject=row["wrong_subject"],
        perturbed=row["perturbed"] or (),
        choices=choices,
        aliases=row["aliases"] or (),
    )


def _span(fact: str, answer: str, where: str) -> tuple[int, int]:
    start = answer.rfind(fact)
    if start < 0:
        raise InputError(f"{where}: column 'fact' {fact!r} does not occur in the answer {answer!r:.80}")
    return start, start + len(fact)
