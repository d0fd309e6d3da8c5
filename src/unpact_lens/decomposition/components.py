"""Compute the rows of every view: embedding, heads, biases, MLPs; and check that they add up to the logit."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.capture import Captured
from unpact_lens.decomposition.heads import head_values
from unpact_lens.decomposition.logit_direction import LogitDirection
from unpact_lens.decomposition.norm import bias_along
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel


def along(
    vectors: Float[Tensor, "answer d_model"], direction: Float[Tensor, "answer d_model"]
) -> Float[Tensor, " answer"]:
    """Compute the dot product at each answer position. Logits."""
    return (vectors * direction).sum(-1)


def embedding_rows(model: HookedModel, run: Captured) -> dict[str, Float[Tensor, " answer"]]:
    """Compute `embed`, and `pos_embed` if learned positions are added. Logits.

    The embedding is the input of the first block without the positions, so any scaling of it is included.
    """
    entering = run.at(0, "hook_resid_pre")
    if not linear_parts.has_positions(model):
        return {"embed": along(entering, run.final)}
    positions = run.acts["hook_pos_embed"]
    return {"embed": along(entering - positions, run.final), "pos_embed": along(positions, run.final)}


def all_heads(model: HookedModel, run: Captured) -> Float[Tensor, "layer head answer"]:
    """Compute what each head adds, logits."""
    return torch.stack(
        [head_values(run.at(layer, "attn.hook_z"), run.reads[layer]) for layer in range(model.cfg.n_layers)]
    )


def sublayer_bias(model: HookedModel, run: Captured, layer: int, sublayer: str) -> Float[Tensor, " answer"]:
    """Compute what a sublayer adds for any input: `b_O` or `b_out`, and the bias of a norm after it. Logits."""
    bias = linear_parts.attention_bias(model, layer) if sublayer == "attn" else linear_parts.mlp_bias(model, layer)
    direction = run.attn[layer] if sublayer == "attn" else run.mlp[layer]
    total = torch.zeros_like(direction[:, 0]) if bias is None else direction @ bias
    behind = linear_parts.norm_behind(model, layer, sublayer)
    return total if behind is None else total + bias_along(behind[1], run.final)


def attention_biases(model: HookedModel, run: Captured) -> dict[str, Float[Tensor, " answer"]]:
    """Compute `L{l}.attn_bias` of each layer."""
    return {f"L{l}.attn_bias": sublayer_bias(model, run, l, "attn") for l in range(model.cfg.n_layers)}


def mlps(model: HookedModel, run: Captured) -> dict[str, Float[Tensor, " answer"]]:
    """Compute `L{l}.mlp` of each layer; empty for a model without MLPs."""
    if not linear_parts.has_mlp(model):
        return {}
    return {f"L{l}.mlp": along(run.at(l, "hook_mlp_out"), run.final) for l in range(model.cfg.n_layers)}


def output_biases(model: HookedModel, direction: LogitDirection) -> dict[str, Float[Tensor, " answer"]]:
    """Compute `ln_final.bias`, the norm's β along the unembedding, and `unembed.bias`. Zero if the model has none."""
    unembedding, constant = direction.direction(*hooked.unembedding(model))
    return {"ln_final.bias": bias_along(linear_parts.final_norm(model), unembedding), "unembed.bias": constant}


def head_labels(model: HookedModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return `("L0", "L1", ...)` and `("H0", "H1", ...)`."""
    return tuple(f"L{l}" for l in range(model.cfg.n_layers)), tuple(f"H{h}" for h in range(model.cfg.n_heads))


def check_sums(
    model: HookedModel, direction: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]
) -> None:
    """Refuse a model whose parts do not add up to the logit.

    Along the answer's direction, each block must add its attention and its MLP to the residual stream, and the
    attention must be the sum of its heads and its bias. The logit must be the final residual stream along that
    direction, plus the biases.

    Raises:
        InputError: If a sum fails. The message names the first such layer and the flags that may be the reason.
    """
    last = model.cfg.n_layers - 1
    eps = torch.finfo(run.final.dtype).eps
    for layer in range(model.cfg.n_layers):
        after = run.acts[hooked.final_hook(model)] if layer == last else run.at(layer + 1, "hook_resid_pre")
        before, attention = run.at(layer, "hook_resid_pre"), run.at(layer, "hook_attn_out")
        added = attention + run.at(layer, "hook_mlp_out") if linear_parts.has_mlp(model) else attention
        tolerance = 1e4 * eps * float(((after.norm(dim=-1) + before.norm(dim=-1)) * run.final.norm(dim=-1)).max())
        if float(along(after - before - added, run.final).abs().max()) > tolerance:
            raise linear_parts.not_linear(
                model, f"layer {layer} adds more to the residual stream than its attention and MLP"
            )
        parts = heads[layer].sum(0) + sublayer_bias(model, run, layer, "attn")
        if float((parts - along(attention, run.final)).abs().max()) > tolerance:
            raise linear_parts.not_linear(
                model, f"layer {layer}: the attention's output is not the sum of its heads and b_O"
            )
    final = run.acts[hooked.final_hook(model)]
    read = along(final, run.final) + sum(output_biases(model, direction).values())
    tolerance = 1e4 * eps * float((final.norm(dim=-1) * run.final.norm(dim=-1)).max() + read.abs().max())
    if float((read - run.total).abs().max()) > tolerance or not _soft_cap_holds(model, run):
        raise linear_parts.not_linear(model, "the logits are not the unembedding of ln_final's output")


def _soft_cap_holds(model: HookedModel, run: Captured) -> bool:
    """Return whether the model's output is its unembedding after the soft-cap of its configuration, if any."""
    cap = linear_parts.soft_cap(model)
    if cap is None:
        return True
    tolerance = 1e4 * torch.finfo(run.logits.dtype).eps * cap
    return float((cap * torch.tanh(run.logits / cap) - run.capped).abs().max()) <= tolerance
