"""Read the facts of an audit from a table in any usual form, and sort them into groups."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pandas as pd

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.custom import SCHEMA, from_pairs, pair_as_row, unchecked_rows
from unpact_lens.data.splits import Facts, RetainSplit
from unpact_lens.data.table_reader import raw_rows
from unpact_lens.errors import InputError, nearest
from unpact_lens.study.keys import hash_of

if TYPE_CHECKING:
    from datasets import Dataset

    Rows = Sequence[Mapping[str, object]] | Sequence[tuple[str, object]] | Mapping[str, object]
    AuditFacts: TypeAlias = str | os.PathLike[str] | pd.DataFrame | Dataset | Rows | Benchmark
else:
    AuditFacts = object  # checked here

FEWEST = 10
"""Smallest number of known forget facts for which an audit says anything."""

NAMES = {
    "prompt": ("prompt", "question", "query", "input", "instruction", "text", "q"),
    "answer": ("answer", "target", "output", "completion", "response", "gold", "label", "ground_truth", "a"),
    "group": ("group", "split", "set", "subset", "role"),
    "subject": ("subject", "entity", "person", "author", "topic"),
    "fact": ("fact", "fact_span", "answer_span", "value", "object"),
    "paraphrases": ("paraphrases", "paraphrase", "paraphrased_question", "rephrased", "rephrase"),
    "aliases": ("aliases", "alias", "alternatives", "synonyms"),
    "kind": ("kind", "relation", "category", "attribute"),
    "wrong_subject": ("wrong_subject", "other_subject_question"),
    "perturbed": ("perturbed", "perturbed_answer", "wrong_answers", "distractors"),
    "choices": ("choices", "options"),
    "id": ("id", "fact_id", "uid", "case_id"),
}
"""Usual names of each column. Upper case, blanks and hyphens do not matter. The first name that a table has is read."""

FORGET, SEEN, UNSEEN = "forget", "retain", "unseen"

GROUPS = {
    "forget": (FORGET, "forget"), "unlearn": (FORGET, "forget"), "remove": (FORGET, "forget"),
    "retain": (SEEN, "far"), "seen": (SEEN, "far"), "trained": (SEEN, "far"),
    "unseen": (UNSEEN, "far"), "holdout": (UNSEEN, "far"), "held_out": (UNSEEN, "far"), "keep": (UNSEEN, "far"),
    "near": (UNSEEN, "near"), "far": (UNSEEN, "far"),
    "general": ("general", "general"), "unknown": ("unknown", "unknown"),
}  # fmt: skip
"""Values of the column `group`: part of the audit, and group of `QA`."""

LISTS = ("paraphrases", "aliases", "perturbed", "choices")
"""Columns that hold several texts. A single text is one of them."""

SAME_FRAME = 0.5
"""Smallest share of a question's words that another question must have in the same places to be of the same frame."""


@dataclass(frozen=True)
class FactTable:
    """Hold the facts of an audit.

    Attributes:
        bench: Forget facts, retain facts that the unlearner saw, and unseen facts.
        source: Name of the file or the form of the table.
        notes: What a reader must know: unread columns, duplicates, groups that are missing.
        path: Path of the table, if it is a file.
    """

    bench: Benchmark
    source: str
    notes: tuple[str, ...] = ()
    path: str | None = None

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the facts and of the way of asking."""
        return hash_of(asdict(self.bench))


def read_facts(
    source: AuditFacts,
    *,
    chat: bool = False,
    prefill: str = "",
    max_new_tokens: int = 24,
    stop: Sequence[str] = ("\n",),
) -> FactTable:
    """Read facts from a table and sort them into forget, retain (seen by the unlearner) and unseen ones.

    Only a question and an answer are needed. Column names are those of `NAMES`, values of the group those of `GROUPS`.
    A fact without a group is to be forgotten. A question that differs from another one by one name gets that one as its
    question about the wrong subject, unless the table gives one.

    Args:
        source: CSV, JSON, JSONL or Parquet file; a DataFrame, a `datasets.Dataset`, a list of dicts or of
            `(prompt, answer)` pairs, or `{prompt: answer}`.
        chat: If True, prompts go through the tokenizer's chat template.
        prefill: Text that each answer starts with. May hold `{subject}`.
        max_new_tokens: Maximum length of a generated answer, in tokens.
        stop: Texts that end a generated answer.

    Returns:
        The facts, with notes on columns that are not read and facts that occur twice.

    Raises:
        InputError: If a column is missing (the nearest name is offered), a group is unknown, a row is wrong, a question
            has two answers, or a fact is in two groups.

    >>> table = read_facts([{"Question": "Where was Ann born?", "Answer": "Oslo"}])
    >>> table.bench.forget[0].answer
    ' Oslo'
    """
    rows, where = _rows(source)
    if not rows:
        raise InputError(f"{where} holds no facts; give rows with a question and an answer")
    columns = _columns(rows, where)
    notes = []
    if unread := [str(c) for c in rows[0] if c not in columns.values()]:
        notes.append(f"{where}: columns not read: {', '.join(unread)}.")
        warnings.warn(notes[-1], stacklevel=2)
    table, twice = _unique([_renamed(row, columns, number, where) for number, row in enumerate(rows, 1)], where)
    if twice:
        say = "fact occurs twice and is" if twice == 1 else "facts occur twice and are"
        notes.append(f"{where}: {twice} {say} used once.")
        warnings.warn(notes[-1], stacklevel=2)
    parts = [row.pop("part") for row in table]
    frame = pd.DataFrame([{c: row.get(c) for c in SCHEMA} for row in table], dtype=object)
    whole = from_pairs(
        frame.where(frame.notna(), None), name=where, retain_split=None, chat=chat, prefill=prefill,
        max_new_tokens=max_new_tokens, stop=tuple(stop),
    )  # fmt: skip
    by_id = {q.id: q for q in whole.all_items()}
    ids = [str(row["id"]) for row in table]
    seen = Facts(by_id[i] for i, part in zip(ids, parts, strict=True) if part == SEEN)
    unseen = Facts(by_id[i] for i, part in zip(ids, parts, strict=True) if part == UNSEEN)
    groups = {q.group for q in unseen}
    if len(groups) == 1:  # D is the mean of near and far: seen facts must not add a group without unseen facts
        seen = Facts(replace(q, group=min(groups)) for q in seen)
    bench = replace(
        whole, retain=seen, unseen=unseen,
        retain_split=RetainSplit(_shares(len(seen), len(unseen))) if unseen else None,
    )  # fmt: skip
    if not bench.forget:
        raise InputError(f"{where} has no facts of group 'forget'; give the facts that should be gone")
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    return FactTable(with_wrong_subjects(bench), where, tuple(notes), path)


def with_wrong_subjects(bench: Benchmark) -> Benchmark:
    """Give each forget fact without one a question about the wrong subject: one of the same frame, another answer.

    Args:
        bench: Facts.

    >>> facts = [{"question": f"Where was {n} born?", "answer": a} for n, a in (("Ann", "Oslo"), ("Bob", "Rome"))]
    >>> read_facts(facts).bench.forget[0].wrong_subject
    'Where was Bob born?'
    """
    others = (*bench.forget, *bench.unseen, *bench.retain)
    return replace(bench, forget=tuple(q if q.wrong_subject else _with_other(q, others) for q in bench.forget))


def _with_other(qa: QA, others: Sequence[QA]) -> QA:
    """Return a fact with the question of the first fact after it that has the same frame and another answer."""
    start = next((i for i, q in enumerate(others) if q.id == qa.id), 0)
    own = qa.prompt.split()
    for other in (*others[start + 1 :], *others[:start]):
        if other.fact.casefold() == qa.fact.casefold() or qa.fact.casefold() in other.prompt.casefold():
            continue
        if _same_frame(own, other.prompt.split()):
            return replace(qa, wrong_subject=other.prompt)
    return qa


def _same_frame(own: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two questions differ in one stretch of words only, and share most of the others."""
    head = next((i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
    tail = next(
        (i for i, (a, b) in enumerate(zip(reversed(own[head:]), reversed(other[head:]), strict=False)) if a != b),
        min(len(own), len(other)) - head,
    )
    return head + tail < len(own) and head + tail >= SAME_FRAME * max(len(own), len(other))


def _rows(source: AuditFacts) -> tuple[list[Mapping[str, object]], str]:
    """Return the rows of a table in any form, and its name."""
    if isinstance(source, pd.DataFrame):
        return [{str(k): v for k, v in row.items()} for row in source.to_dict("records")], "the DataFrame"
    if isinstance(source, (str, os.PathLike)):
        return list(raw_rows(Path(source))), Path(source).name
    if hasattr(source, "to_list") and hasattr(source, "column_names"):
        if isinstance(source, Mapping):
            raise InputError(f"facts= is a DatasetDict; give one of its splits: {', '.join(map(repr, source))}")
        return list(source.to_list()), "the Dataset"
    if isinstance(source, Mapping):
        source = unchecked_rows(source, "facts=")
    if isinstance(source, Sequence) and all(isinstance(row, (Mapping, tuple, list)) for row in source):
        rows = (pair_as_row(row, "facts=", number) for number, row in enumerate(source, 1))
        return [row for row in rows if isinstance(row, Mapping)], "the list of facts"
    raise InputError(
        f"facts= is a {type(source).__name__}; give a csv, json, jsonl or parquet file, a DataFrame, a "
        "datasets.Dataset, a list of dicts or a list of (prompt, answer) pairs"
    )


def _columns(rows: Sequence[Mapping[str, object]], where: str) -> dict[str, str]:
    """Return the table's column of each entry of `NAMES` that it has.

    Raises:
        InputError: If there is no question or no answer.
    """
    given = {str(c).strip().casefold().replace(" ", "_").replace("-", "_"): c for row in rows for c in row}
    found = {}
    for entry, names in NAMES.items():
        name = next((n for n in names if n in given), None)
        if name is not None:
            found[entry] = given[name]
    for entry in ("prompt", "answer"):
        if entry not in found:
            raise InputError(
                f"{where} has no column for the {'question' if entry == 'prompt' else entry}; it has "
                f"{', '.join(map(repr, given.values()))}{_meant(entry, given)}"
            )
    return found


def _meant(entry: str, given: Iterable[str]) -> str:
    """Return a clause that names the column which is nearest to a missing one, and the names that are read."""
    known = NAMES[entry]
    scores = {(c, n): SequenceMatcher(None, c, n).ratio() for c in given for n in known}
    best = max(scores, key=lambda pair: scores[pair], default=None)
    rename = f"; rename {best[0]!r} to {best[1]!r}?" if best is not None and scores[best] >= 0.6 else ";"
    return f"{rename} Read are {', '.join(known)}"


def _renamed(row: Mapping[str, object], columns: Mapping[str, str], number: int, where: str) -> dict[str, object]:
    """Return a row with the names of `from_pairs`, its part of the audit and an id."""
    named: dict[str, object] = {entry: _value(row.get(column)) for entry, column in columns.items()}
    for entry in ("prompt", "answer", "subject", "fact", "kind", "id"):
        value = named.get(entry)
        if value is not None and not isinstance(value, str):
            named[entry] = str(value)
    for entry in LISTS:
        value = named.get(entry)
        if isinstance(value, str) and not value.lstrip().startswith("["):
            named[entry] = [value]
    for entry in ("prompt", "answer"):
        if not str(named.get(entry) or "").strip():
            raise InputError(f"{where}, row {number}: the {'question' if entry == 'prompt' else entry} is empty")
    given = str(named.get("group") or "forget").strip().casefold().replace(" ", "_").replace("-", "_")
    if given not in GROUPS:
        raise InputError(f"{where}, row {number}: group {named['group']!r}; {nearest(given, GROUPS)}")
    part, group = GROUPS[given]
    return {**named, "id": named.get("id") or f"row {number}", "part": part, "group": group}


def _value(value: object) -> object:
    """Return a cell, with an undefined one as None."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value) or value == "":
        return None
    return value.tolist() if hasattr(value, "tolist") else value


def _unique(rows: Sequence[dict[str, object]], where: str) -> tuple[list[dict[str, object]], int]:
    """Return the rows without repetitions, and the number of repetitions.

    Raises:
        InputError: If a question is in two groups, or has two answers.
    """
    first: dict[str, dict[str, object]] = {}
    twice = 0
    for row in rows:
        key = " ".join(str(row["prompt"]).casefold().split())
        known = first.setdefault(key, row)
        if known is row:
            continue
        if known["part"] != row["part"]:
            raise InputError(
                f"{where}: {row['prompt']!r} is in the groups {known['part']!r} ({known['id']}) and {row['part']!r} "
                f"({row['id']}); a fact is either to be forgotten or to be kept"
            )
        if str(known["answer"]).split() != str(row["answer"]).split():
            raise InputError(
                f"{where}: {row['prompt']!r} has two answers, {known['answer']!r} ({known['id']}) and "
                f"{row['answer']!r} ({row['id']}); keep one, and put the other into the column 'aliases'"
            )
        twice += 1
    return list(first.values()), twice


def _shares(seen: int, unseen: int) -> tuple[float, float, float]:
    """Return the shares of seen and unseen retain facts, with none for validation."""
    share = seen / (seen + unseen)
    return share, 0.0, 1.0 - share
