"""Prefer another answer to the answer to forget: the loss and the data that DPO, AltPO and refusals share."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded
from unpact_lens.models.tokens import with_answer as with_other_answer
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import View
from unpact_lens.unlearning.dataset import ended
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.trainer import Options

PREFERENCE: Options = {"beta": Option(0.1, Number(0, above=True)), "scale": Option(1.0, Number(0, above=True))}
"""Hyperparameters of `preference_loss`."""


def preference_loss(view: View, options: Options) -> Tensor:
    """Compute the DPO loss, with the alternative as the chosen answer and the answer to forget as the rejected one."""
    chosen, rejected = view.alternative, view
    return losses.dpo(
        losses.sequence_sums(chosen.log_probs, chosen.mask),
        losses.sequence_sums(chosen.ref_log_probs, chosen.mask),
        losses.sequence_sums(rejected.log_probs, rejected.mask),
        losses.sequence_sums(rejected.ref_log_probs, rejected.mask),
        options["beta"],
        options["scale"],
    )


def with_answer(job: Job, row: Encoded, answer: str, what: str) -> Encoded:
    """Return the same prompt with another answer and its end token.

    Args:
        job: Run whose model tokenises the answer.
        row: Prompt and answer to forget, as token ids.
        answer: Text of the other answer.
        what: Kind of answer, for the error message.

    Raises:
        InputError: If the answer has no token, or does not fit the model's context.
    """
    changed = with_other_answer(job.before, row, answer, what)
    if not changed.answer or len(changed.ids) > job.before.cfg.n_ctx:
        raise InputError(
            f"{what} {answer!r} has {len(changed.answer)} tokens; it needs at least 1, and with its prompt of "
            f"{len(row.context)} at most {job.before.cfg.n_ctx}"
        )
    return dataclasses.replace(changed, answer=ended(job.before, changed.answer, job.settings))
