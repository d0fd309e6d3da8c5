"""Load MUSE: news articles or the Harry Potter books as text to unlearn, with questions about them.

Shi et al. 2024, arXiv 2407.06460; on the hub `muse-bench/MUSE-News` and `muse-bench/MUSE-Books`.
"""

from __future__ import annotations

import os

from unpact_lens.data.benchmark import QA, Benchmark, Corpus, benchmark
from unpact_lens.data.custom import REFUSALS
from unpact_lens.data.question_kinds import kind_of
from unpact_lens.data.splits import Facts
from unpact_lens.data.table_reader import Column, Source, source
from unpact_lens.errors import InputError, nearest

HUB = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}

SPLITS = ("raw", *(f"scal_{i}" for i in range(1, 5)), *(f"sust_{i}" for i in range(1, 5)))
"""Forget corpora: the forget set; one to four times as much text (scalability); the first to fourth of four sequential
requests (sustainability)."""

_TEXT = {"text": Column()}
_QA = {"question": Column(), "answer": Column()}
_PASSAGE = {"prompt": Column(), "gt": Column()}


@benchmark("muse-books", "books")
@benchmark("muse-news", "news")
def muse(corpus: str = "news", *, split: str = "raw", path: str | os.PathLike[str] | None = None) -> Benchmark:
    """Load MUSE.

    `unlearn` trains on the corpora (`unlearn_from`); the questions are for evaluation.

    `forget` and `retain` are the questions of `knowmem`, prompted as in MUSE. `few_shot` holds MUSE's ten solved
    examples for each. `verbatim` are the passages of `verbmem`; `members` and `holdout` are the texts of `privleak`.
    `forget_corpus` is the text to unlearn. `retain_corpus` is `raw/retain1`, on which MUSE's regularisers train, and
    `plain_text` is `raw/retain2`, which no method sees. Questions get their kind by the rule in `question_kinds.py`;
    passages are `"verbatim"`. Retain questions are *far*, because they ask about other articles.

    The two retain corpora stay as MUSE's authors split them. `load_benchmark` splits the retain questions, each of
    which is its own subject; the metric `knowmem_retain` asks all of them, as MUSE does.

    Args:
        corpus: `"news"` or `"books"`.
        split: One of `SPLITS`. Books have `"raw"` only.
        path: Directory with the tables as the hub exports them. If None, the hub.

    Returns:
        The benchmark.

    Raises:
        InputError: If corpus or split is unknown, or a table is missing or malformed.
    """
    if corpus not in HUB:
        raise InputError(f"unknown MUSE corpus {corpus!r}; {nearest(corpus, HUB)}")
    if split not in SPLITS:
        raise InputError(f"unknown MUSE split {split!r}; {nearest(split, SPLITS)}")
    if corpus == "books" and split != "raw":
        raise InputError(f"MUSE-Books has no split {split!r}, only 'raw'; scal and sust exist for news")
    tables = source(HUB[corpus], path)
    config, forget = ("raw", "forget") if split == "raw" else (split[:4], f"forget_{split[-1]}")
    return Benchmark(
        name=f"muse-{corpus}" if split == "raw" else f"muse-{corpus}-{split}",
        forget=_questions(tables, "forget_qa", "forget"),
        retain=Facts(_questions(tables, "retain_qa", "far")),
        forget_corpus=_corpus(tables, config, forget),
        retain_corpus=_corpus(tables, "raw", "retain1"),
        plain_text=_corpus(tables, "raw", "retain2"),
        refusals=REFUSALS,
        max_new_tokens=32,
        verbatim=_passages(tables),
        members=_corpus(tables, "privleak", "forget"),
        holdout=_corpus(tables, "privleak", "holdout"),
        few_shot={
            "forget": _solved(tables, "forget_qa_icl"),
            "far": _solved(tables, "retain_qa_icl"),
        },
        unlearn_from="corpus",
    )


def _corpus(tables: Source, config: str, split: str) -> Corpus:
    return Corpus(tuple(row["text"] for row in tables.table(config, split, _TEXT)), f"{config}/{split}")


def _questions(tables: Source, split: str, group: str) -> tuple[QA, ...]:
    return tuple(
        QA(
            prompt=f"Question: {row['question']}\nAnswer:",
            answer=f" {row['answer']}",
            kind=kind_of(row["question"], row["answer"]),
            id=f"knowmem/{split}/{number}",
            subject=f"{split}/{number}",
            group=group,
            meta={"question": row["question"]},
        )
        for number, row in enumerate(tables.table("knowmem", split, _QA))
    )


def _solved(tables: Source, split: str) -> str:
    rows = tables.table("knowmem", split, _QA)
    return "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows)


def _passages(tables: Source) -> tuple[QA, ...]:
    return tuple(
        QA(prompt=row["prompt"], answer=row["gt"], kind="verbatim", id=f"verbmem/{number}", subject=f"verbmem/{number}")
        for number, row in enumerate(tables.table("verbmem", "forget", _PASSAGE))
    )
