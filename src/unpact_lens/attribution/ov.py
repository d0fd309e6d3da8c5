"""Score units by what attention heads move from them directly into the answer's logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.mixing import answer_direction, pooled
from unpact_lens.attribution.units import Example
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.capture import Captured, capture
from unpact_lens.decomposition.heads import read_out, source_values
from unpact_lens.models.hooked import HookedModel


@attribution_method(
    "what heads move from the token directly into the answer's logit",
    "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
    unit="logits",
    fixed_target="logit",
)
def ov(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute direct OV contributions: $C(x_i, y_k) = \sum_{l,h} A^{lh}_{t_k i}\, (v^{lh}_i W_O^{lh}) \cdot u_k$.

    This is what the heads move from the source token directly into the answer's logit, with the final norm's scale
    frozen. It equals the view `decompose(by="source")`, summed over heads. Processing by later layers is not counted.

    Args:
        inputs: Scorer of the model.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, logits.

    Raises:
        InputError: If the model cannot be decomposed.

    Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits.
    """
    linear_parts.require_decomposable(inputs.model)
    model, _ = linear_parts.in_full_precision(inputs.model)
    outputs = []
    for example in examples:
        with torch.inference_mode():
            captured = capture(model, answer_direction(example), ("source",))
            layers = [moved(model, captured, layer) for layer in range(model.cfg.n_layers)]
            total = torch.stack(layers).sum(0)  # [source, answer]
        outputs.append(pooled(example, total))
    return outputs


def moved(model: HookedModel, captured: Captured, layer: int) -> Float[Tensor, "source answer"]:
    """Compute what a layer's heads move from each source position into each answer token's logit."""
    read = read_out(linear_parts.heads_out(model, layer), captured.attn[layer])  # [head, d_head, answer]
    pattern, v = captured.at(layer, "attn.hook_pattern"), captured.at(layer, "attn.hook_v")
    return source_values(pattern, v, read).sum(0)
