"""Compute fact-span match: whether an answer contains the fact, generated or teacher-forced."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.evaluation.answers import Answers, fact_right
from unpact_lens.evaluation.metrics import metric


@metric("fact_span", source="formulas: fact-span match", better="higher", binary=True)
def fact_span(answers: Answers) -> Float[Tensor, " item"]:
    """Return 1 if the generated answer contains the fact, else 0."""
    return answers.each(fact_right)


@metric("fact_span_forced", source="formulas: fact-span match, teacher-forced", better="higher", binary=True)
def fact_span_forced(answers: Answers) -> Float[Tensor, " item"]:
    """Return 1 if every token of the fact is the most likely one after the gold answer up to it, else 0."""
    pairs = zip(answers.token_right, answers.fact_tokens, strict=True)
    return torch.tensor([float(right[start:end].all()) for right, (start, end) in pairs])
