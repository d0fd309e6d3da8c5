"""Detect degenerate text: answers that are empty or repeat themselves."""

from __future__ import annotations

import itertools

from jaxtyping import Float
from torch import Tensor

from unpact_lens.evaluation.answers import Answers, normalise
from unpact_lens.evaluation.metrics import metric


def degenerate(text: str) -> bool:
    """Return whether a text has no letter or digit, or repeats half of its word pairs.

    `1 − distinct pairs / pairs ≥ 1/2`, with words separated by blanks.

    Source: seq-rep-n of Welleck et al. 2019, arXiv 1908.04319, with n = 2.

    >>> degenerate("in Oslo in Oslo in Oslo"), degenerate(" ?!"), degenerate("New York, New York")
    (True, True, False)
    """
    if not normalise(text):
        return True
    words = text.split()
    pairs = list(itertools.pairwise(words))
    return bool(pairs) and 1 - len(set(pairs)) / len(pairs) >= 0.5


@metric("degenerate", source="seq-rep-2, arXiv 1908.04319", better="lower", binary=True)
def degenerate_answers(answers: Answers) -> Float[Tensor, " item"]:
    """Return 1 if the generated answer is empty or repeats itself, else 0."""
    return answers.each(lambda text, qa: degenerate(text))
