"""The paper's contribution of a prompt unit: what the answer's log-probability loses when the unit is removed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.scorer import Family, Score
from unpact_lens.attribution.units import Example


def leave_one_out(score: Score, examples: Sequence[Example]) -> list[Float[Tensor, "unit answer"]]:
    r"""Leave-one-out: $C(x_i, y_k) = v_k(x) - v_k(x \setminus x_i)$.

    By default $v_k = \log p(y_k \mid x, y_{<k})$. A unit is removed by deleting its token ids; nothing is
    re-tokenised, later tokens move up. The mean over $k$ is
    $C(x_i, y) = \mathrm{LP}(x, y) - \mathrm{LP}(x \setminus x_i, y)$. Positive: the unit makes the answer likelier.

    Args:
        score: the target's values for families of rows; any source of log-probabilities will do.
        examples: prompts with their answers, cut into units.

    Returns:
        For each example, units x answer tokens, in the target's unit (nats by default).

    Raises:
        InputError: if removing a unit leaves no context before the answer.

    Source: Zhang et al. 2025, arXiv 2509.24675, Eq. 2 (unPact).
    """
    families: list[Family] = [[e.encoded, *(e.without([u]) for u in range(len(e.members)))] for e in examples]
    return [values[0] - torch.stack(values[1:]) for values in score(families)]
