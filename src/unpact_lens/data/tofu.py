"""Load TOFU: questions about two hundred fictitious authors, some of whom are to be forgotten.

Maini et al. 2024, arXiv 2401.06121; on the hub `locuslab/TOFU`. `forget` is a forget split and `retain` its complement.
Real authors and world facts are `general`. Wrong answers and the paraphrased answer come from the `*_perturbed` tables,
joined by question.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from unpact_lens.data.benchmark import QA, Benchmark, benchmark
from unpact_lens.data.chat import Chat
from unpact_lens.data.custom import REFUSALS
from unpact_lens.data.fact_spans import fact_span_of
from unpact_lens.data.question_kinds import kind_of
from unpact_lens.data.splits import Facts
from unpact_lens.data.table_reader import TEXTS, Column, Row, Source, source
from unpact_lens.errors import InputError, nearest

HUB = "locuslab/TOFU"

RETAIN = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
"""Complement of each forget split."""

PER_AUTHOR = 20
"""Number of questions about one author. They are consecutive."""

REAL_AUTHORS = "real_authors"
WORLD_FACTS = "world_facts"

_PAIR = {"question": Column(), "answer": Column()}
_PERTURBED = {
    **_PAIR,
    "paraphrased_question": Column(required=False),
    "paraphrased_answer": Column(),
    "perturbed_answer": Column(TEXTS),
}
_REAL = {**_PAIR, "original_answer": Column(required=False), "perturbed_answer": Column(TEXTS)}

_NAME = re.compile(r"[A-Z][\w'.-]*(?:\s+(?:(?:de|van|von|bin|al|el|da|di|del|la|ibn|der)\s+)?[A-Z][\w'.-]*)+")


@benchmark("tofu-forget10", "forget10")
@benchmark("tofu-forget05", "forget05")
@benchmark("tofu-forget01", "forget01")
@benchmark("tofu")
def tofu(
    split: str = "forget10",
    *,
    path: str | os.PathLike[str] | None = None,
    retain_authors: int | None = None,
    template: str = "Question: {question}\nAnswer:",
    chat: Chat = False,
    max_new_tokens: int = 200,
) -> Benchmark:
    r"""Load TOFU.

    Each item has a kind of knowledge by the rule in `question_kinds.py`, and its author as `subject`: the name that
    occurs in most of the author's twenty rows. TOFU's answers are sentences. The rule in `fact_spans.py` finds the
    characters that carry the fact, so forgetting and recovery do not depend on the wording of the sentence. A retain
    item is *near* if its author shares a first or last name with an author to forget, else *far*.
    `load_benchmark` splits the retain items by author. TOFU's own metrics ask every item of its evaluation sets,
    trained or not. `meta["paraphrased_answer"]` and `perturbed` are inputs of the truth ratio. `meta["set"]` is the
    table of a general item.

    Args:
        split: `"forget01"`, `"forget05"` or `"forget10"`.
        path: Directory with the tables as the hub exports them. If None, the hub.
        retain_authors: Number of authors to keep, with all their questions, the same authors at every call. If None,
            all. Useful for training a small model on a part of TOFU.
        template: Prompt, with `{question}`. With a chat template, give `"{question}"`.
        chat: If True, prompts go through the tokenizer's chat template, and answers start without a blank and may have
            several lines. If False, a line break ends an answer.
        max_new_tokens: Maximum length of a generated answer, in tokens. TOFU's own evaluation uses 200.

    Returns:
        The benchmark.

    Raises:
        InputError: If the split is unknown, `retain_authors` is out of range, a table is missing or malformed, or
            perturbed rows belong to another split.
    """
    if split not in RETAIN:
        raise InputError(f"unknown TOFU split {split!r}; {nearest(split, RETAIN)}")
    if "{question}" not in template:
        raise InputError(f"template {template!r} has no {{question}}; put {{question}} where the question belongs")
    tables = source(HUB, path)
    blank = "" if chat else " "
    forget = _items(tables, split, "forget", template, blank)
    wrong = tables.table(f"{split}_perturbed", "train", _PERTURBED)
    forget = join_perturbed(forget, wrong, f"{split}_perturbed", blank)
    if missing := [q.id for q in forget if not q.perturbed]:
        raise InputError(f"{split}_perturbed has no row for {len(missing)} questions of {split}, first {missing[0]}")
    retain = _items(tables, RETAIN[split], "far", template, blank)
    wrong = tables.table("retain_perturbed", "train", _PERTURBED)
    retain = _some_authors(join_perturbed(retain, wrong, "retain_perturbed", blank), retain_authors)
    names = {word for q in forget for word in _name_words(q.subject)}
    near = Facts(replace(q, group="near") if names & _name_words(q.subject) else q for q in retain)
    return Benchmark(
        name=f"tofu-{split}",
        forget=tuple(forget),
        retain=near,
        general=tuple(q for table in (REAL_AUTHORS, WORLD_FACTS) for q in _real(tables, table, template, blank)),
        refusals=REFUSALS,
        chat=chat,
        max_new_tokens=max_new_tokens,
        stop=() if chat else ("\n",),
    )


def join_perturbed(items: Sequence[QA], rows: Sequence[Row], table: str, blank: str = " ") -> list[QA]:
    """Add wrong answers and paraphrases to items, joined by question and answer.

    Args:
        items: Items of a plain table.
        rows: Rows of its perturbed table, in any order. Items without a row are unchanged.
        table: Name of the perturbed table, for errors.
        blank: Text that each answer starts with.

    Raises:
        InputError: If a row belongs to none of the items.
    """
    at = {(q.meta["question"], q.answer.strip()): i for i, q in enumerate(items)}
    joined = list(items)
    for number, row in enumerate(rows, start=1):
        i = at.get((row["question"], row["answer"].strip()))
        if i is None:
            raise InputError(
                f"{table}, row {number}: question {row['question']!r:.80} with this answer is not in "
                f"{items[0].id.split('/')[0]}; are the two tables of the same split?"
            )
        paraphrase = row["paraphrased_question"]
        template = items[i].prompt.replace(row["question"], "{question}")
        joined[i] = replace(
            items[i],
            perturbed=tuple(blank + wrong for wrong in row["perturbed_answer"]),
            paraphrases=(template.replace("{question}", paraphrase),) if paraphrase else (),
            meta={**items[i].meta, "paraphrased_answer": blank + row["paraphrased_answer"]},
        )
    return joined


def authors(rows: Sequence[Row]) -> list[str]:
    """Return the author of each row: in each block of twenty, the capitalised name that occurs in most rows.

    If no name occurs in a third of the rows, the author is `"author <n>"`.
    """
    subjects = []
    for start in range(0, len(rows), PER_AUTHOR):
        block = rows[start : start + PER_AUTHOR]
        texts = [re.sub(r"['’]s\b", "", f"{r['question']} {r['answer']}") for r in block]
        counts = Counter(name for text in texts for name in set(_NAME.findall(text)))
        name, count = counts.most_common(1)[0] if counts else ("", 0)
        subjects += [name if 3 * count >= len(block) else f"author {start // PER_AUTHOR}"] * len(block)
    return subjects


def _items(tables: Source, table: str, group: str, template: str, blank: str) -> list[QA]:
    rows = tables.table(table, "train", _PAIR)
    return [
        QA(
            prompt=template.replace("{question}", row["question"]),
            answer=blank + row["answer"],
            kind=kind_of(row["question"], row["answer"]),
            id=f"{table}/{number}",
            subject=subject,
            fact_span=_span(row, blank),
            group=group,
            meta={"question": row["question"]},
        )
        for number, (row, subject) in enumerate(zip(rows, authors(rows), strict=True))
    ]


def _span(row: Row, blank: str) -> tuple[int, int] | None:
    """Return the characters of the fact in the answer, with its leading blank counted."""
    span = fact_span_of(row["question"], row["answer"])
    return span and (span[0] + len(blank), span[1] + len(blank))


def _some_authors(items: Sequence[QA], count: int | None) -> list[QA]:
    """Return the items of `count` authors, drawn with a fixed seed. Authors with wrong answers come first."""
    if count is None:
        return list(items)
    subjects = list(dict.fromkeys(q.subject for q in items))
    if not 0 < count <= len(subjects):
        raise InputError(f"retain_authors={count}; give 1 to {len(subjects)}, or None for all")
    perturbed = {q.subject for q in items if q.perturbed}
    random.Random("tofu/retain").shuffle(subjects)
    chosen = set(sorted(subjects, key=lambda s: s not in perturbed)[:count])
    return [q for q in items if q.subject in chosen]


def _real(tables: Source, table: str, template: str, blank: str) -> list[QA]:
    rows = tables.table(f"{table}_perturbed", "train", _REAL)
    return [
        QA(
            prompt=template.replace("{question}", row["question"]),
            answer=blank + row["answer"],
            kind=kind_of(row["question"], row["answer"]),
            id=f"{table}/{number}",
            subject=row["answer"],
            group="general",
            perturbed=tuple(blank + wrong for wrong in row["perturbed_answer"]),
            meta={"question": row["question"], "set": table},
        )
        for number, row in enumerate(rows)
    ]


def _name_words(subject: str) -> set[str]:
    """Return the words of a name without initials and particles."""
    return {word for word in subject.split() if len(word) > 3 and word[0].isupper()}
