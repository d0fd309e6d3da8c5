"""Compute the probability of the gold answer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.evaluation.answers import Answers
from unpact_lens.evaluation.metrics import metric


@metric("probability", source="TOFU, arXiv 2401.06121", better="higher")
def probability(answers: Answers) -> Float[Tensor, " item"]:
    r"""Compute the exp of the mean log-probability of the gold answer's tokens.

    $\exp(\mathrm{LP}(x, y)) = \exp(\ell / T)$, the geometric mean of the answer tokens' probabilities.
    """
    return torch.stack([t.double().mean().exp() for t in answers.token_log_probs]).float()
