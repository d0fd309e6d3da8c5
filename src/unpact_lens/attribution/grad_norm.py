"""Score units by the norm of the gradient at their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from unpact_lens.attribution.gradients import EmbeddingTarget, norms
from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.units import Example


@attribution_method(
    "norm of the target's gradient at the token's embedding",
    "Simonyan et al. 2013, arXiv 1312.6034",
    unit="unit of the target per unit of embedding",
)
def grad_norm(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute the gradient norm: $C(x_i, y_k) = \|\partial v_k / \partial e_i\|_2$, never negative.

    For a unit of several tokens, their gradients are concatenated before the norm is taken.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit per unit of embedding.

    Source: Simonyan et al. 2013, arXiv 1312.6034; Li et al. 2016, arXiv 1506.01066.
    """
    return [MethodOutput(norms(e, EmbeddingTarget(inputs.local, e).gradients())) for e in examples]
