"""Register the methods that answer with a refusal: learn it (`idk_ft`), or prefer it to the answer (`idk_dpo`)."""

from __future__ import annotations

import random

from unpact_lens.models.tokens import Encoded
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Option, Texts
from unpact_lens.unlearning.preference import PREFERENCE, preference_loss, with_answer
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms

REFUSALS = (
    " I don't know.",
    " I'm not able to answer that.",
    " Sorry, I have no information about this.",
    " I cannot help with this question.",
    " That is something I do not know.",
)
"""Refusals used where the caller and the benchmark give none."""


def train_on_refusals(job: Job) -> None:
    """Replace every answer by a refusal."""
    job.data.rows = _refusing(job)


def pair_with_refusals(job: Job) -> None:
    """Put a refusal beside every answer."""
    job.data.alternatives = Examples(_refusing(job), job.before)


def _refusing(job: Job) -> list[Encoded]:
    """Return each prompt with a refusal drawn at random."""
    refusals = job.options["refusals"]
    rng = random.Random(f"refusals/{job.seed}")
    job.questions()
    return [with_answer(job, row, rng.choice(refusals), "refusal") for row in job.data.rows]


add_with_retain_terms(
    Method(
        "idk_ft",
        "learn to answer forget questions with a refusal",
        "−mean log p of a refusal",
        "TOFU, Maini et al. 2024, arXiv 2401.06121",
        forget=lambda view, options: losses.nll(view.log_probs, view.mask),
        options={"refusals": Option(REFUSALS, Texts(one=True))},
        prepare=train_on_refusals,
        note="each example keeps the refusal that was drawn for it.",
    ),
    lr={"gdr": 1.6e-3, "klr": 3.2e-3},
)
add_with_retain_terms(
    Method(
        "idk_dpo",
        "prefer a refusal to the answer",
        "−mean log σ(β[(ℓ_c − ℓ_c0) − (ℓ_r − ℓ_r0)]), c a refusal, r the answer",
        "TOFU, Maini et al. 2024, arXiv 2401.06121; loss of arXiv 2305.18290",
        forget=preference_loss,
        per="example",
        options={**PREFERENCE, "refusals": Option(REFUSALS, Texts(one=True))},
        prepare=pair_with_refusals,
        note="public toolkits multiply by 2/β: scale=2/beta.",
    ),
    lr={"gdr": 6.4e-3, "klr": 6.4e-3},
)
