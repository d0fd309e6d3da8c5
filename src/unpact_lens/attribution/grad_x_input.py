"""Score units by gradient times embedding."""

from __future__ import annotations

from collections.abc import Sequence

from unpact_lens.attribution.gradients import EmbeddingTarget, sums
from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.units import Example


@attribution_method("gradient times embedding", "Shrikumar et al. 2016, arXiv 1605.01713")
def grad_x_input(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute gradient times input: $C(x_i, y_k) = \partial v_k / \partial e_i \cdot e_i$.

    For a unit of several tokens, the products are summed.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Source: Shrikumar et al. 2016, arXiv 1605.01713.
    """
    functions = [EmbeddingTarget(inputs.local, example) for example in examples]
    return [MethodOutput(sums(f.example, f.gradients() * f.embed)) for f in functions]
