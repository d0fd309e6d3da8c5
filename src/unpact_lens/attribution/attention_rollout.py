"""Score units by their share of attention, multiplied over the layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.mixing import at_answer, input_tokens, rollout
from unpact_lens.attribution.targets import wide
from unpact_lens.attribution.units import Example
from unpact_lens.models import hooked


@attribution_method(
    "share of attention, multiplied over the layers",
    "Abnar and Zuidema 2020, arXiv 2005.00928",
    unit="share",
    fixed_target="attention share",
)
def attention_rollout(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute attention rollout: $C(x_i, y_k) = \big[\tilde A_L \cdots \tilde A_1\big]_{t_k i}$.

    $\tilde A = \frac12(\bar A + I)$, where $\bar A$ is the mean over a layer's heads and $t_k$ the position that
    predicts $y_k$. The scores are shares: over all positions they sum to 1. They depend neither on values nor on the
    answer.

    Args:
        inputs: Scorer of the model.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, shares of attention.

    Source: Abnar and Zuidema 2020, arXiv 2005.00928.
    """
    model = inputs.model
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    outputs = []
    for example in examples:
        with torch.inference_mode():
            taken = hooked.collect(model, input_tokens(model, example), names)
        means = [wide(taken[name][0]).mean(0) for name in names]  # [query, key] each
        mixing = [(mean + torch.eye(len(mean)).to(mean)) / 2 for mean in means]
        outputs.append(at_answer(example, rollout(mixing)))
    return outputs
