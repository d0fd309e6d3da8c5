"""Compute leave-one-out contributions, the method of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.scorer import Family
from unpact_lens.attribution.units import Example


@attribution_method(
    "decrease of the answer's log-probability when the unit is deleted: the paper's C(x_i, y)",
    "Zhang et al. 2025, arXiv 2509.24675",
    deletion="ids",
    scores_only=True,
)
def leave_one_out(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute the leave-one-out contribution of each unit: $C(x_i, y_k) = v_k(x) - v_k(x \setminus x_i)$.

    By default $v_k = \log p(y_k \mid x, y_{<k})$. A unit is removed by deleting its token ids. Nothing is
    re-tokenised, and later tokens move up. The mean over $k$ is
    $C(x_i, y) = \mathrm{LP}(x, y) - \mathrm{LP}(x \setminus x_i, y)$. A positive score means that the unit makes the
    answer more likely.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens for each example, in the target's unit (nats by default).

    Raises:
        InputError: If removing a unit leaves no context before the answer.

    Source: Zhang et al. 2025, arXiv 2509.24675, Eq. 2 (unPact).
    """
    families: list[Family] = [[e.encoded, *(e.without([u]) for u in range(len(e.members)))] for e in examples]
    return [MethodOutput(values[0] - torch.stack(values[1:])) for values in inputs.scorer(families)]  # [unit, answer]
