"""The rows that every view is made of: embedding, heads, biases, MLPs, and a check that they are all there is."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.capture import Captured
from unpact_lens.decomposition.heads import head_values
from unpact_lens.decomposition.logit_direction import LogitDirection
from unpact_lens.decomposition.norm import bias_along
from unpact_lens.models import hooked


def along(
    vectors: Float[Tensor, "answer d_model"], direction: Float[Tensor, "answer d_model"]
) -> Float[Tensor, " answer"]:
    """The dot product at each answer position. Logits."""
    return (vectors * direction).sum(-1)


def embedding_rows(model: Any, run: Captured) -> dict[str, Float[Tensor, " answer"]]:
    """`embed`, and `pos_embed` where learned positions are added. Logits.

    The embedding is what enters the first block, without the positions, so any scaling of it is included.
    """
    entering = run.at(0, "hook_resid_pre")
    if not linear_parts.has_positions(model):
        return {"embed": along(entering, run.final)}
    positions = run.acts["hook_pos_embed"]
    return {"embed": along(entering - positions, run.final), "pos_embed": along(positions, run.final)}


def all_heads(model: Any, run: Captured) -> Float[Tensor, "layer head answer"]:
    """What each head adds, logits."""
    return torch.stack(
        [head_values(run.at(layer, "attn.hook_z"), run.reads[layer]) for layer in range(model.cfg.n_layers)]
    )


def sublayer_bias(model: Any, run: Captured, layer: int, sublayer: str) -> Float[Tensor, " answer"]:
    """What a sublayer adds whatever it reads: `b_O` or `b_out`, and the bias of a norm behind it. Logits."""
    bias = linear_parts.attention_bias(model, layer) if sublayer == "attn" else linear_parts.mlp_bias(model, layer)
    direction = run.attn[layer] if sublayer == "attn" else run.mlp[layer]
    total = torch.zeros_like(direction[:, 0]) if bias is None else direction @ bias
    behind = linear_parts.norm_behind(model, layer, sublayer)
    return total if behind is None else total + bias_along(behind[1], run.final)


def attention_biases(model: Any, run: Captured) -> dict[str, Float[Tensor, " answer"]]:
    """`L{l}.attn_bias` of each layer."""
    return {f"L{l}.attn_bias": sublayer_bias(model, run, l, "attn") for l in range(model.cfg.n_layers)}


def mlps(model: Any, run: Captured) -> dict[str, Float[Tensor, " answer"]]:
    """`L{l}.mlp` of each layer; nothing in a model without MLPs."""
    if not linear_parts.has_mlp(model):
        return {}
    return {f"L{l}.mlp": along(run.at(l, "hook_mlp_out"), run.final) for l in range(model.cfg.n_layers)}


def output_biases(model: Any, target: LogitDirection) -> dict[str, Float[Tensor, " answer"]]:
    """`ln_final.bias`, the norm's β along the unembedding; `unembed.bias`. Zero where the model has none."""
    direction, constant = target.direction(model.unembed.W_U, model.unembed.b_U)
    return {"ln_final.bias": bias_along(linear_parts.final_norm(model), direction), "unembed.bias": constant}


def head_labels(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`("L0", "L1", ...)` and `("H0", "H1", ...)`."""
    return tuple(f"L{l}" for l in range(model.cfg.n_layers)), tuple(f"H{h}" for h in range(model.cfg.n_heads))


def check_sums(model: Any, target: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]) -> None:
    """Refuse a model whose parts are not all there is.

    For each layer, along the answer's direction: what the block adds to the stream is its attention and its MLP, and
    the attention is its heads and its bias. And the logit is the final stream along that direction, with the biases.

    Raises:
        InputError: naming the first layer where that fails, and the flags that may be the reason.
    """
    last = model.cfg.n_layers - 1
    eps = torch.finfo(run.final.dtype).eps
    for layer in range(model.cfg.n_layers):
        after = run.acts[hooked.final_hook(model)] if layer == last else run.at(layer + 1, "hook_resid_pre")
        before, attention = run.at(layer, "hook_resid_pre"), run.at(layer, "hook_attn_out")
        added = attention + run.at(layer, "hook_mlp_out") if linear_parts.has_mlp(model) else attention
        tolerance = 1e4 * eps * float(((after.norm(dim=-1) + before.norm(dim=-1)) * run.final.norm(dim=-1)).max())
        if float(along(after - before - added, run.final).abs().max()) > tolerance:
            raise linear_parts.unlike(
                model, f"layer {layer} adds more to the residual stream than its attention and MLP"
            )
        parts = heads[layer].sum(0) + sublayer_bias(model, run, layer, "attn")
        if float((parts - along(attention, run.final)).abs().max()) > tolerance:
            raise linear_parts.unlike(
                model, f"layer {layer}: the attention's output is not the sum of its heads and b_O"
            )
    final = run.acts[hooked.final_hook(model)]
    read = along(final, run.final) + sum(output_biases(model, target).values())
    tolerance = 1e4 * eps * float((final.norm(dim=-1) * run.final.norm(dim=-1)).max() + read.abs().max())
    if float((read - run.total).abs().max()) > tolerance or not _capped_as_said(model, run):
        raise linear_parts.unlike(model, "the logits are not the unembedding of ln_final's output")


def _capped_as_said(model: Any, run: Captured) -> bool:
    """Whether the model's output is its unembedding after the soft-cap of its configuration, where it has one."""
    cap = linear_parts.soft_cap(model)
    if cap is None:
        return True
    tolerance = 1e4 * torch.finfo(run.logits.dtype).eps * cap
    return float((cap * torch.tanh(run.logits / cap) - run.capped).abs().max()) <= tolerance
