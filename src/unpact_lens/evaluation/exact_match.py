"""Compute exact match: whether the whole answer is the gold answer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.evaluation.answers import Answers, normalise
from unpact_lens.evaluation.metrics import metric


def exact_match(generated: str, qa: QA) -> bool:
    """Return whether the whole generated answer is the gold answer, both normalised."""
    return normalise(generated) == normalise(qa.answer)


@metric("exact_match", source="SQuAD, arXiv 1606.05250", better="higher", binary=True)
def exact_match_of_answers(answers: Answers) -> Float[Tensor, " item"]:
    """Return 1 if the whole generated answer is the gold answer, both normalised, else 0."""
    return answers.each(exact_match)
