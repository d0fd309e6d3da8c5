"""Score units by what attention adds to the answer's logit in each layer, traced back to input tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.mixing import answer_direction, input_tokens, pooled, rows_to_shares
from unpact_lens.attribution.ov import moved
from unpact_lens.attribution.units import Example
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.capture import capture
from unpact_lens.decomposition.norm import normalise
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel

START = "blocks.0.hook_resid_pre"
"""Hook on the residual stream that enters the first block."""


@attribution_method(
    "what attention moves into the answer's logit in each layer, traced back to input tokens",
    "Ferrando et al. 2023, arXiv 2305.12535",
    unit="logits",
    fixed_target="logit",
)
def alti_logit(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute ALTI-Logit contributions.

    $C(x_i, y_k) = \sum_l \sum_j T^l_{t_k}(x_j) \cdot u_k \; M^{l-1}_{ji} + [i = t_k]\, x^0_{t_k} \cdot u_k$.
    $T^l_q(x_j)$ is what position $j$ adds to the residual stream at $q$ in layer $l$: values with their bias, through
    $W_O$. $u_k$ is the answer token's direction with the final norm's scale frozen. $M^{l}$ is the product of the ALTI
    mixing matrices up to layer $l$ (`alti_matrices`). What MLPs and biases add is not counted.

    Args:
        inputs: Scorer of the model.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, logits.

    Raises:
        InputError: If the model cannot be decomposed.

    Source: Ferrando et al. 2023, arXiv 2305.12535 (Logit); Ferrando et al. 2022, arXiv 2203.04212 (mixing).
    """
    linear_parts.require_decomposable(inputs.model)
    model, _ = linear_parts.in_full_precision(inputs.model)
    outputs = []
    for example in examples:
        direction, tokens = answer_direction(example), input_tokens(model, example)
        positions = list(direction.positions)
        with torch.inference_mode():
            captured = capture(model, direction, ("source",))
            mixings = alti_matrices(model, tokens)
            start = hooked.collect(model, tokens, [START])[START][0]  # [pos, d_model]
            inside = torch.eye(mixings[0].shape[0]).to(mixings[0])  # [pos, input], M up to the layer before
            total = torch.zeros(inside.shape[0], len(captured.final)).to(inside)  # [input, answer]
            for layer, mixing in enumerate(mixings):
                total += inside.T @ moved(model, captured, layer)
                inside = mixing @ inside
            own = (start[positions] * captured.final).sum(-1)  # [answer]
            total[positions, range(len(own))] += own
        outputs.append(pooled(example, total))
    return outputs


def alti_matrices(model: HookedModel, tokens: Int[Tensor, "1 pos"]) -> list[Float[Tensor, "query key"]]:
    r"""Compute each layer's ALTI mixing: $C_{qj} \propto \max(0, \|y_q\|_1 - \|y_q - T_q(x_j)\|_1)$, rows summing to 1.

    $y_q = \sum_j T_q(x_j)$ is the attention's output plus the residual stream, which counts to $j = q$. The output bias
    is excluded.
    """
    layers, parts = range(model.cfg.n_layers), ("attn.hook_pattern", "attn.hook_v", "hook_resid_pre")
    names = [f"blocks.{layer}.{part}" for layer in layers for part in parts]
    behind = [linear_parts.norm_behind(model, layer, "attn") for layer in layers]
    taken = hooked.collect(model, tokens, [*names, *(b[0] for b in behind if b is not None and b[1].scales)])
    matrices = []
    for layer in layers:
        # Shapes: pattern [head, query, key]; v [key, kv_head, d_head]; resid [pos, d_model].
        pattern, v, resid = (taken[f"blocks.{layer}.{part}"][0] for part in parts)
        v = hooked.values_read(model, v)
        out = linear_parts.heads_out(model, layer)  # [head, d_head, d_model]
        # Each value head serves several query heads in a row.
        values = torch.einsum("she,hed->hsd", v.repeat_interleave(len(out) // v.shape[1], dim=1), out)
        rows = []
        for q in range(len(resid)):
            vectors = torch.einsum("hs,hsd->sd", pattern[:, q, : q + 1], values[:, : q + 1])  # [key <= q, d_model]
            norm = behind[layer]
            if norm is not None:
                scale = taken[norm[0]][0, q] if norm[1].scales else resid.new_ones(1)
                vectors = normalise(norm[1], vectors, scale)
            vectors[q] += resid[q]
            whole = vectors.sum(0)  # [d_model]
            near = (whole.abs().sum() - (whole - vectors).abs().sum(-1)).clamp(min=0)  # [key <= q]
            rows.append(torch.nn.functional.pad(near, (0, len(resid) - q - 1)))
        matrices.append(rows_to_shares(torch.stack(rows)))
    return matrices
