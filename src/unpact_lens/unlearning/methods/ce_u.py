"""Register CE-U: cross-entropy to the model's own distribution without the answer token."""

from unpact_lens.errors import InputError
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms


def leave_first_tokens_out(job: Job) -> None:
    """Check that `ignore_first` leaves tokens in every answer.

    Raises:
        InputError: If an answer has no other tokens.
    """
    ignored = job.options["ignore_first"]
    shortest = min(len(row.answer) for row in job.data.rows)
    if ignored >= shortest:
        raise InputError(
            f"ignore_first={ignored}: the shortest forget answer has {shortest} tokens; give at most {shortest - 1}"
        )


add_with_retain_terms(
    Method(
        "ce_u",
        "cross-entropy to the model's own distribution without the answer token",
        "CE to sg[softmax(z with z_y = −∞)]",
        "Yang 2025, arXiv 2503.01224",
        forget=lambda view, options: losses.ce_u(view.logits, view.labels, view.mask, options["ignore_first"]),
        options={"ignore_first": Option(0, Number(0, whole=True))},
        prepare=leave_first_tokens_out,
        note="ignore_first= leaves out the first tokens of every answer, as a footnote of the source does with 1.",
    ),
    lr={"gdr": 4e-4, "klr": 4e-4},
)
