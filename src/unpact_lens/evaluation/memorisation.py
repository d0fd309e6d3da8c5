"""Compute how much of a gold answer a model has memorised, from one teacher-forced pass.

Source: Wang et al. 2025, arXiv 2502.19301 (extraction strength, after Carlini et al. 2021); Tirumala et al. 2022, arXiv
2205.10770 (exact memorisation). MUSE's metrics of memorisation are in `muse.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.evaluation.answers import Answers
from unpact_lens.evaluation.metrics import metric


def exact_memorisation(right: Bool[Tensor, " answer"]) -> float:
    """Compute the share of an answer's tokens that are the most likely ones, given the gold answer before them.

    Args:
        right: True for tokens that are the most likely one, given the gold answer before them.

    Returns:
        A share, 0 to 1.

    >>> exact_memorisation(torch.tensor([False, True, True, True]))
    0.75
    """
    return float(right.double().mean())


def extraction_strength(right: Bool[Tensor, " answer"], *, as_open_unlearning: bool = False) -> float:
    r"""Compute how little of an answer must be given for the model to complete the rest greedily: $1 - k/T$.

    k is the smallest number of given tokens after which all further ones are the most likely; T if the last is wrong.

    Args:
        right: True for tokens that are the most likely one, given the gold answer before them.
        as_open_unlearning: If True, k is at most T − 1, as in open-unlearning. A wrong last token then still counts
            1/T, so every answer of one token scores 1.

    Returns:
        0 to 1; lower after unlearning.

    >>> extraction_strength(torch.tensor([False, True, True, True])), extraction_strength(torch.tensor([False]))
    (0.75, 0.0)
    """
    wrong = (~right).nonzero()
    given = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - (min(given, len(right) - 1) if as_open_unlearning else given) / len(right)


@metric("exact_memorisation", source="arXiv 2205.10770", better="higher")
def exact_memorisation_of_answers(answers: Answers) -> Float[Tensor, " item"]:
    """Compute the share of the gold answer's tokens that are the most likely ones."""
    return torch.tensor([exact_memorisation(right) for right in answers.token_right])


@metric("extraction_strength", source="arXiv 2502.19301", better="higher")
def extraction_strength_of_answers(answers: Answers) -> Float[Tensor, " item"]:
    """Compute how little of the gold answer must be given for the model to complete it."""
    return torch.tensor([extraction_strength(right) for right in answers.token_right])
