"""Build a benchmark from your own table of questions and answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from unpact_lens.data.benchmark import GROUPS, QA, Benchmark, benchmark, check_unique_ids
from unpact_lens.data.chat import Chat
from unpact_lens.data.question_kinds import kind_of
from unpact_lens.data.splits import KEPT, Facts, SplitRequest
from unpact_lens.data.table_reader import TEXTS, Column, Row, check_rows, read_table
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


def from_pairs(
    source: str | os.PathLike[str] | pd.DataFrame,
    *,
    name: str = "pairs",
    retain_split: SplitRequest = "auto",
    split_seed: int = 0,
    **options: Any,
) -> Benchmark:
    """Build a benchmark from a table of questions and answers, with the items to keep split by subject.

    Only `prompt` (or `question`) and `answer` are required. An item without a `group` is to be forgotten; the group
    `"retain"` means `"far"`. An item without a `kind` gets it from the rule in `question_kinds.py`. An answer without a
    leading blank gets one leading space, because prompt and answer are joined as they are.

    Args:
        source: A csv, json, jsonl or parquet file, or a DataFrame. In a csv, lists are written as JSON.
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

    >>> from_pairs(pd.DataFrame({"question": ["Where is Oslo?"], "answer": ["Norway"]})).forget[0].answer
    ' Norway'
    """
    known = {f.name for f in fields(Benchmark)} - _FROM_THE_TABLE
    if unknown := sorted(options.keys() - known):
        raise InputError(f"unknown option {unknown[0]!r} of from_pairs; known are {', '.join(sorted(known))}")
    where = "the DataFrame" if isinstance(source, pd.DataFrame) else str(source)
    items = [_item(row, number, where) for number, row in enumerate(_rows(source, where), start=1)]
    check_unique_ids(items)
    whole = Benchmark(
        name=name,
        forget=tuple(q for q in items if q.group == "forget"),
        retain=Facts(q for q in items if q.group in KEPT),
        general=tuple(q for q in items if q.group == "general"),
        unknown=tuple(q for q in items if q.group == "unknown"),
        **{"refusals": REFUSALS, **options},
    )
    return whole.split(retain_split, split_seed)


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


def _rows(source: str | os.PathLike[str] | pd.DataFrame, where: str) -> Sequence[Row]:
    either = {**SCHEMA, "prompt": Column(required=False), "question": Column(required=False)}
    if isinstance(source, pd.DataFrame):
        rows = check_rows(source.to_dict("records"), either, where)
    else:
        rows = read_table(source, either)
    for number, row in enumerate(rows, start=1):
        row["prompt"] = row["prompt"] or row.pop("question")
        if row["prompt"] is None:
            raise InputError(f"{where}, row {number}: neither 'prompt' nor 'question' is given")
    return rows


def _item(row: Row, number: int, where: str) -> QA:
    answer = row["answer"] if row["answer"][:1].isspace() else f" {row['answer']}"
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
        choices=row["choices"] or (),
        aliases=row["aliases"] or (),
    )


def _span(fact: str, answer: str, where: str) -> tuple[int, int]:
    start = answer.rfind(fact)
    if start < 0:
        raise InputError(f"{where}: column 'fact' {fact!r} does not occur in the answer {answer!r:.80}")
    return start, start + len(fact)
