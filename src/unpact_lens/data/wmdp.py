"""Load WMDP: multiple-choice questions on hazardous knowledge, and corpora to unlearn it from.

Li et al. 2024, arXiv 2403.03218; on the hub `cais/wmdp`, `cais/wmdp-corpora` and, on request, the biology corpus
`cais/wmdp-bio-forget-corpus`.
"""

from __future__ import annotations

import os

from unpact_lens.data.benchmark import QA, Benchmark, Corpus, benchmark
from unpact_lens.data.splits import Facts
from unpact_lens.data.table_reader import INTEGER, TEXTS, Column, source
from unpact_lens.errors import InputError, nearest

HUB = "cais/wmdp"

DOMAINS = {"bio": "biology", "cyber": "cybersecurity", "chem": "chemistry"}

LETTERS = ("A", "B", "C", "D")

_CORPORA = {
    "bio": (("cais/wmdp-bio-forget-corpus", "bio-forget-corpus"), ("cais/wmdp-corpora", "bio-retain-corpus")),
    "cyber": (("cais/wmdp-corpora", "cyber-forget-corpus"), ("cais/wmdp-corpora", "cyber-retain-corpus")),
}
_QUESTION = {"question": Column(), "choices": Column(TEXTS, length=4), "answer": Column(INTEGER)}
_TEXT = {"text": Column()}


@benchmark("wmdp-chem", "chem")
@benchmark("wmdp-cyber", "cyber")
@benchmark("wmdp-bio", "bio")
def wmdp(domain: str = "bio", *, path: str | os.PathLike[str] | None = None, corpora: bool | None = None) -> Benchmark:
    """Load the questions of one WMDP domain, and its corpora if available.

    `unlearn` trains on the corpora (`unlearn_from`); the questions are for evaluation. Without the corpora it refuses.

    A question is prompted as in the WMDP paper and lm-evaluation-harness: its four options with letters, then
    "Answer:". `choices` are the letters. The kind of knowledge is the domain. There are no retain questions, because
    WMDP measures retained ability on MMLU (see lm-evaluation-harness). `load_benchmark` splits the retain corpus by
    document: perplexity on `unseen_corpus` is not that of rehearsed text. `wrong_subject` is the next question with the
    options of this one.

    Args:
        domain: `"bio"`, `"cyber"` or `"chem"`.
        path: Directory with `wmdp-<domain>` and the corpora as the hub exports them. If None, the hub.
        corpora: Whether to load the corpora. If None, those found in the directory are loaded, and none from the hub,
            where one of them is available on request only.

    Returns:
        The benchmark.

    Raises:
        InputError: If the domain is unknown or has no corpora, or a table is missing or malformed.
    """
    if domain not in DOMAINS:
        raise InputError(f"unknown WMDP domain {domain!r}; {nearest(domain, DOMAINS)}")
    if corpora and domain not in _CORPORA:
        raise InputError(f"WMDP has no corpora for {domain!r}, only for {', '.join(map(repr, _CORPORA))}")
    config = f"wmdp-{domain}"
    rows = source(HUB, path).table(config, "test", _QUESTION)
    # The options of one question under the next: the rate of the right letter without a matching question.
    others = [row["question"] for row in (*rows[1:], *rows[:1])] if len(rows) > 1 else [None]
    forget = tuple(
        _item(row, number, domain, config, other)
        for number, (row, other) in enumerate(zip(rows, others, strict=True), start=1)
    )
    found: list[Corpus | None] = [None, None]
    for i, (hub, name) in enumerate(_CORPORA.get(domain, ())):
        tables = source(hub, path)
        if corpora or (corpora is None and path is not None and tables.has(name, "train")):
            texts = tuple(row["text"] for row in tables.table(name, "train", _TEXT))
            found[i] = Corpus(texts, name, tuple(f"{name}/{number}" for number in range(len(texts))))
    return Benchmark(
        name=config,
        forget=forget,
        retain=Facts(),
        forget_corpus=found[0],
        retain_corpus=found[1],
        unlearn_from="corpus",
    )


def _item(row: dict, number: int, domain: str, config: str, other: str | None) -> QA:
    if not 0 <= row["answer"] < len(LETTERS):
        raise InputError(
            f"{config}, row {number}: column 'answer' is {row['answer']}; give the index 0 to 3 of a choice"
        )
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))

    def asked(question: str) -> str:
        head = f"The following are multiple choice questions (with answers) about {DOMAINS[domain]}."
        return f"{head}\n\n{question.strip()}\n{options}\nAnswer:"

    return QA(
        prompt=asked(row["question"]),
        answer=f" {LETTERS[row['answer']]}",
        kind=DOMAINS[domain],
        id=f"{config}/{number - 1}",
        subject=f"{config}/{number - 1}",
        wrong_subject=None if other is None else asked(other),
        choices=tuple(f" {letter}" for letter in LETTERS),
        meta={"question": row["question"], "options": list(row["choices"])},
    )
