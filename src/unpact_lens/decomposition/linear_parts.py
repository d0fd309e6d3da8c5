"""Where the linear pieces of a model are: output weights, biases, norms after a sublayer; and what is not linear."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition.norm import Norm, norm_of
from unpact_lens.errors import InputError
from unpact_lens.models import hooked

NORMS_AFTER_SUBLAYER = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""Architectures whose `ln1` and `ln2` stand behind the sublayer instead of before it."""

_SUSPECTS = (
    "original_architecture", "architecture", "normalization_type", "use_normalization_before_and_after",
    "residual_multiplier", "embedding_multiplier", "attention_multiplier", "logits_scaling", "logit_scale",
)  # fmt: skip


def require_decomposable(model: Any) -> None:
    """Refuse a model whose residual stream is known not to be a sum of heads and MLPs over earlier tokens.

    Raises:
        InputError: naming the layer and what it lacks, or the flag.
    """
    direction = getattr(model.cfg, "attention_dir", "causal")
    if direction != "causal":
        raise InputError(f"cfg.attention_dir is {direction!r}; only causal models have an answer to decompose")
    known = hooked.hook_points(model)
    for layer in range(model.cfg.n_layers):
        for part in ("attn.hook_z", "attn.hook_v", "attn.hook_pattern", "hook_attn_out", "hook_resid_pre"):
            if f"blocks.{layer}.{part}" not in known:
                kind = type(model.blocks[layer]).__name__
                raise InputError(
                    f"layer {layer} ({kind}) has no {part}: it is not an attention block, and its part in the answer "
                    "is not a sum over heads; attribute(method='leave_one_out') works on any model"
                )


def in_full_precision(model: Any) -> tuple[Any, tuple[str, ...]]:
    """The model itself, or where its weights are of half precision an fp32 copy; and what to note about it."""
    dtype = next(iter(model.parameters())).dtype
    if dtype in (torch.float32, torch.float64):
        return model, ()
    wide = copy.deepcopy(model).to(torch.float32)
    wide.cfg.dtype = torch.float32
    return wide, (f"weights of {str(dtype).removeprefix('torch.')} were decomposed in float32",)


def has_positions(model: Any) -> bool:
    """Whether learned positions are added to the residual stream."""
    learned = getattr(model.cfg, "positional_embedding_type", None) == "standard"
    return learned and "hook_pos_embed" in hooked.hook_points(model)


def has_mlp(model: Any) -> bool:
    """Whether blocks have an MLP."""
    return not getattr(model.cfg, "attn_only", False)


def heads_out(model: Any, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """`W_O` of a layer, one matrix a head."""
    weight = model.blocks[layer].attn.W_O
    return weight.reshape(model.cfg.n_heads, -1, model.cfg.d_model)


def attention_bias(model: Any, layer: int) -> Float[Tensor, " d_model"] | None:
    """`b_O` of a layer, None where it has none."""
    return getattr(model.blocks[layer].attn, "b_O", None)


def neurons_out(model: Any, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """`W_out` of a layer's MLP, one row a neuron.

    Raises:
        InputError: if the MLP is routed, or has no single output matrix.
    """
    if not has_mlp(model):
        raise InputError("the model has no MLPs (cfg.attn_only=True), so no neurons; use by='head'")
    mlp = model.blocks[layer].mlp
    experts = getattr(model.cfg, "num_experts", None)
    weight = None if experts else getattr(mlp, "W_out", None)
    if weight is None:
        flag = f"cfg.num_experts={experts}" if experts else f"a {type(mlp).__name__} without W_out"
        raise InputError(f"layer {layer}: the MLP is routed ({flag}); it is one component: use by='component'")
    return weight


def mlp_bias(model: Any, layer: int) -> Float[Tensor, " d_model"] | None:
    """`b_out` of a layer's MLP, None where it has none."""
    return getattr(model.blocks[layer].mlp, "b_out", None)


def norm_behind(model: Any, layer: int, sublayer: str) -> tuple[str, Norm] | None:
    """The norm between a sublayer's output and the residual stream, as in Gemma 2 and OLMo 2; None in most models.

    Args:
        model: a hooked model.
        layer: which block.
        sublayer: `"attn"` or `"mlp"`.

    Returns:
        The hook name of its scale, and its weights.
    """
    block = model.blocks[layer]
    stem = "ln1" if sublayer == "attn" else "ln2"
    if f"{stem}_post" in block._modules:
        name = f"{stem}_post"
    elif _architecture(model) in NORMS_AFTER_SUBLAYER:
        name = stem
    else:
        return None
    return f"blocks.{layer}.{name}.hook_scale", norm_of(getattr(block, name), f"blocks.{layer}.{name}")


def norm_before(model: Any, layer: int, sublayer: str) -> tuple[str, Norm] | None:
    """The norm between the residual stream and a sublayer's input; None where the sublayer reads the stream itself."""
    if _architecture(model) in NORMS_AFTER_SUBLAYER:
        return None
    name = "ln1" if sublayer == "attn" else "ln2"
    return f"blocks.{layer}.{name}.hook_scale", norm_of(getattr(model.blocks[layer], name), f"blocks.{layer}.{name}")


def final_norm(model: Any) -> Norm:
    """The weights of `ln_final`."""
    return norm_of(getattr(model, "ln_final", torch.nn.Identity()), "ln_final")


def uncapped_logits(model: Any, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """Logits before a final soft-cap, from rows of the final residual stream, by the model's own modules."""
    normed = model.ln_final(resid[None]) if hasattr(model, "ln_final") else resid[None]
    return hooked.project(model, normed)[0]


def soft_cap(model: Any) -> float | None:
    """The final soft-cap on the logits, None where there is none."""
    cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
    return float(cap) if cap > 0 else None


def unlike(model: Any, what: str) -> InputError:
    """The error for a model whose parts do not add up: it names the place, and every flag that may be the reason."""
    flags = {name: getattr(model.cfg, name, None) for name in _SUSPECTS}
    shown = ", ".join(f"cfg.{k}={v!r}" for k, v in flags.items() if v not in (None, False))
    kind = "TransformerBridge" if hooked.is_bridge(model) else type(model).__name__
    return InputError(f"{what}: something there is not linear, or is scaled, in a way not known here ({kind}; {shown})")


def _architecture(model: Any) -> str | None:
    return getattr(model.cfg, "original_architecture", None) or getattr(model.cfg, "architecture", None)
