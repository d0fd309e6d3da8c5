"""Register ReLearn: learn answers without the fact, several for each question."""

from __future__ import annotations

import random

from unpact_lens.errors import InputError
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option, Texts
from unpact_lens.unlearning.preference import with_answer
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.self_rehearsal import REHEARSAL


def teach_other_answers(job: Job) -> None:
    """Replace every answer by `n_answers` answers that do not hold the fact; each is an example of its own."""
    items, wanted = job.questions(), job.options["n_answers"]
    given = job.options["answers"]
    rng = random.Random(f"relearn/{job.seed}")
    own = written_answers(job) if given is None else [list(given)] * len(items)
    rows, owners = [], []
    for row, owner in zip(job.data.rows, job.data.owners, strict=True):
        found = [a for a in own[owner] if items[owner].fact.strip() not in a]
        if not found:
            raise InputError(
                f"forget item {items[owner].id or owner}: every other answer holds its fact "
                f"{items[owner].fact.strip()!r}; give answers="
            )
        for other in rng.sample(found, min(wanted, len(found))):
            rows.append(with_answer(job, row, other, "answer"))
            owners.append(owner)
    job.data = Examples(rows, job.before, owners, job.data.store)


def written_answers(job: Job) -> list[list[str]]:
    """Return for each forget question the answers without its fact that the model gave to it about other subjects.

    The other subject's name is replaced by the subject to forget. Where there is no such answer, those to all questions
    are taken.
    """
    by_form: dict[str, list[str]] = {}
    for q in job.rehearsal:
        by_form.setdefault(q.prompt.replace(q.subject, "{}"), []).append(q.answer.replace(q.subject, "{}"))
    every = [answer for answers in by_form.values() for answer in answers]
    found = []
    for item in job.questions():
        form = item.prompt.replace(item.subject, "{}") if item.subject else item.prompt
        for answers in (by_form.get(form, []), every):
            named = dict.fromkeys(a.replace("{}", item.subject) for a in answers)
            free = [a for a in named if item.fact.strip() not in a]
            if free:
                break
        found.append(free)
    return found


add_with_retain_terms(
    Method(
        "relearn",
        "learn other answers, several for each question, that do not hold the fact",
        "−mean log p of other answers",
        "Xu et al. 2025, arXiv 2502.11190",
        forget=lambda view, options: losses.nll(view.log_probs, view.mask),
        writes=True,
        options={
            "answers": Option(None, Texts(optional=True, one=True)),
            "n_answers": Option(4, Number(1, whole=True)),
            **REHEARSAL,
        },
        prepare=teach_other_answers,
        note="the source lets a large model write vague answers and further questions, and adds both retain terms. "
        "Here answers= gives the answers; None takes what the original model answers to the same question about "
        "subjects that it named itself, with their names replaced. phrasings='all' trains on the paraphrases.",
    ),
    rehearsed=True,
)
