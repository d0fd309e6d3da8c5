"""Register DPO and AltPO: prefer one or several other answers of the same form to the answer."""

from __future__ import annotations

import random
from collections.abc import Sequence

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option, Texts
from unpact_lens.unlearning.preference import PREFERENCE, preference_loss, with_answer
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.trainer import Options

ALTERNATIVES: Options = {
    "alternatives": Option(None, Texts(optional=True, nested=True)),
    "n_alternatives": Option(1, Number(1, whole=True)),
}
"""Hyperparameters of the other answers."""


def pair_with_alternatives(job: Job) -> None:
    """Put `n_alternatives` other answers beside every answer. A question then counts once for each of them."""
    wanted = job.options["n_alternatives"]
    answers = alternatives(job, random.Random(f"alternatives/{job.seed}"))
    rows, chosen, owners = [], [], []
    for row, owner in zip(job.data.rows, job.data.owners, strict=True):
        for other in answers[owner][:wanted]:
            rows.append(row)
            chosen.append(with_answer(job, row, other, "alternative"))
            owners.append(owner)
    job.data = Examples(rows, job.before, owners, job.data.store)
    job.data.alternatives = Examples(chosen, job.before, owners)


def alternatives(job: Job, rng: random.Random) -> list[list[str]]:
    """Return other answers for each forget item: those given (`alternatives=`), else wrong answers of the same form.

    Args:
        job: Run with the option `alternatives`.
        rng: Source of randomness.

    Raises:
        InputError: If the number of those given is wrong, or an item has no wrong answer of the same form.
    """
    items, given = job.questions(), job.options["alternatives"]
    if given is None:
        return [_alternatives(items, i, rng) for i in range(len(items))]
    if len(given) != len(items):
        raise InputError(f"{len(given)} alternatives for {len(items)} forget items; give one (or several) for each")
    return [_listed(each) for each in given]


def _alternatives(items: Sequence[QA], i: int, rng: random.Random) -> list[str]:
    """Return wrong answers of the same form: the item's perturbed answers, or answers of other items of its kind."""
    item = items[i]
    if item.perturbed:
        return list(item.perturbed)
    others = list(dict.fromkeys(q.answer for q in items if q.kind == item.kind and q.fact != item.fact))
    if not others:
        raise InputError(
            f"forget item {item.id or i} has no perturbed answers, and no other item is of kind {item.kind!r}; "
            "give alternatives="
        )
    return rng.sample(others, len(others))


def _listed(given: str | Sequence[str]) -> list[str]:
    """Return one or several texts as a list."""
    return [given] if isinstance(given, str) else list(given)


add_with_retain_terms(
    Method(
        "dpo",
        "prefer one other answer of the same form to the answer",
        "−mean log σ(β[(ℓ_c − ℓ_c0) − (ℓ_r − ℓ_r0)]), c an alternative, r the answer",
        "Rafailov et al. 2023, arXiv 2305.18290",
        forget=preference_loss,
        per="example",
        defaults={"lr": 2e-4},
        options={**PREFERENCE, **ALTERNATIVES},
        prepare=pair_with_alternatives,
        note="alternatives: those given, else the item's perturbed answers, else answers of other items of its kind.",
    ),
    lr={"gdr": 4e-4, "klr": 4e-4},
)
add_with_retain_terms(
    Method(
        "altpo",
        "prefer several plausible in-domain answers to the answer",
        "as dpo, over several alternatives for each question",
        "Mekala et al. 2024, arXiv 2409.13474",
        forget=preference_loss,
        per="example",
        options={**PREFERENCE, **ALTERNATIVES, "n_alternatives": Option(5, Number(1, whole=True))},
        prepare=pair_with_alternatives,
        note="the source lets an instruction-tuned model write the alternatives; here they are given, or the item's "
        "perturbed answers, or answers of other items of its kind. The source adds a retain term: altpo_gdr.",
    ),
    lr={"gdr": 4e-4, "klr": 4e-4},
)
