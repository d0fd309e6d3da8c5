"""Compute contributions by setting a unit's token embeddings to zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.attribution.interventions import embedding_effects
from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.units import Example


@attribution_method(
    "decrease when the unit's token embeddings are zero",
    "Li et al. 2016, arXiv 1612.08220",
)
def zero_embed(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute the effect of zero embeddings: $C(x_i, y_k) = v_k(x) - v_k(x \text{ with } e_i = 0)$.

    The token embedding is zero. The position embedding remains.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Source: Li, Monroe and Jurafsky 2016, arXiv 1612.08220 (representation erasure).
    """
    return embedding_effects(inputs, examples, torch.zeros(()))
