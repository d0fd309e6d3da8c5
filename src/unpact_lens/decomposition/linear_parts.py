"""Locate the linear parts of a model: output weights, biases, norms after a sublayer; and refuse what is not linear."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition.norm import Norm, norm_of
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.upcast import HALF, in_fp32

NORMS_AFTER_SUBLAYER = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""Architectures whose `ln1` and `ln2` come after the sublayer instead of before it."""

_SUSPECTS = (
    "original_architecture", "architecture", "normalization_type", "use_normalization_before_and_after",
    "residual_multiplier", "embedding_multiplier", "attention_multiplier", "logits_scaling", "logit_scale",
)  # fmt: skip
"""Configuration flags that may be the reason why the parts of a model do not add up."""


def require_decomposable(model: HookedModel) -> None:
    """Refuse a model whose residual stream is known not to be a sum of heads and MLPs over earlier tokens.

    Raises:
        InputError: If the model is not causal or a layer lacks a part. The message names the layer and the part.
    """
    direction = getattr(model.cfg, "attention_dir", "causal")
    if direction != "causal":
        raise InputError(f"cfg.attention_dir is {direction!r}; only causal models have an answer to decompose")
    known = hooked.hook_points(model)
    config = model.original_model.config.get_text_config() if hooked.is_bridge(model) else model.cfg
    if getattr(config, "kv_lora_rank", None):
        raise InputError(
            "keys and values of this model are compressed (latent attention), and its heads are not decomposed; "
            "attribute(method='leave_one_out') works on any model"
        )
    if model.unembed.W_U.shape[0] != model.cfg.d_model:
        raise InputError(
            f"the unembedding reads {model.unembed.W_U.shape[0]} numbers, the residual stream has {model.cfg.d_model}: "
            "a projection lies between them, which is not decomposed; attribute(method='leave_one_out') works on any "
            "model"
        )
    for layer in range(model.cfg.n_layers):
        for part in ("attn.hook_z", "attn.hook_v", "attn.hook_pattern", "hook_attn_out", "hook_resid_pre"):
            if f"blocks.{layer}.{part}" not in known:
                kind = type(model.blocks[layer]).__name__
                raise InputError(
                    f"layer {layer} ({kind}) has no {part}: it is not an attention block, and its part in the answer "
                    "is not a sum over heads; attribute(method='leave_one_out') works on any model"
                )


def in_full_precision(model: HookedModel) -> tuple[HookedModel, tuple[str, ...]]:
    """Return the model, or if its weights are in half precision, a model on them that computes in fp32; and notes."""
    dtype = next(iter(model.parameters())).dtype
    if dtype not in HALF:
        return model, ()
    return in_fp32(model), (f"weights of {str(dtype).removeprefix('torch.')} were decomposed in float32",)


def has_positions(model: HookedModel) -> bool:
    """Return whether learned position embeddings are added to the residual stream."""
    learned = getattr(model.cfg, "positional_embedding_type", None) == "standard"
    return learned and "hook_pos_embed" in hooked.hook_points(model)


def has_mlp(model: HookedModel) -> bool:
    """Return whether blocks have an MLP."""
    return not getattr(model.cfg, "attn_only", False)


def heads_out(model: HookedModel, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """Return `W_O` of a layer, one matrix for each head."""
    weight = model.blocks[layer].attn.W_O
    return weight.reshape(model.cfg.n_heads, -1, model.cfg.d_model)


def attention_bias(model: HookedModel, layer: int) -> Float[Tensor, " d_model"] | None:
    """Return `b_O` of a layer, or None."""
    return getattr(model.blocks[layer].attn, "b_O", None)


def neurons_out(model: HookedModel, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """Return `W_out` of a layer's MLP, one row for each neuron.

    Raises:
        InputError: If the MLP is routed, or has no single output matrix.
    """
    if not has_mlp(model):
        raise InputError("the model has no MLPs (cfg.attn_only=True), so no neurons; use by='head'")
    mlp = model.blocks[layer].mlp
    experts = getattr(model.cfg, "num_experts", None)
    weight = None if experts else getattr(mlp, "W_out", None)
    if weight is None:
        flag = f"cfg.num_experts={experts}" if experts else f"a {type(mlp).__name__} without W_out"
        raise InputError(f"layer {layer}: the MLP is routed ({flag}); it is one component; use by='component'")
    return weight


def mlp_bias(model: HookedModel, layer: int) -> Float[Tensor, " d_model"] | None:
    """Return `b_out` of a layer's MLP, or None."""
    return getattr(model.blocks[layer].mlp, "b_out", None)


def norm_behind(model: HookedModel, layer: int, sublayer: str) -> tuple[str, Norm] | None:
    """Return the norm between a sublayer's output and the residual stream, as in Gemma 2 and OLMo 2, or None.

    Args:
        model: Hooked model.
        layer: Index of the block.
        sublayer: `"attn"` or `"mlp"`.

    Returns:
        The hook name of the norm's scale, and its weights.
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


def norm_before(model: HookedModel, layer: int, sublayer: str) -> tuple[str, Norm] | None:
    """Return the norm between the residual stream and a sublayer's input; None if the sublayer reads the stream."""
    if _architecture(model) in NORMS_AFTER_SUBLAYER:
        return None
    name = "ln1" if sublayer == "attn" else "ln2"
    return f"blocks.{layer}.{name}.hook_scale", norm_of(getattr(model.blocks[layer], name), f"blocks.{layer}.{name}")


def final_norm(model: HookedModel) -> Norm:
    """Return the weights of `ln_final`."""
    return norm_of(getattr(model, "ln_final", torch.nn.Identity()), "ln_final")


def uncapped_logits(model: HookedModel, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """Compute the logits before a final soft-cap from rows of the final residual stream, by the model's own modules."""
    with exclusive(model):
        normed = model.ln_final(resid[None]) if hasattr(model, "ln_final") else resid[None]
        return hooked.project(model, normed)[0]


def soft_cap(model: HookedModel) -> float | None:
    """Return the final soft-cap on the logits, or None."""
    cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
    return float(cap) if cap > 0 else None


def not_linear(model: HookedModel, what: str) -> InputError:
    """Return the error for a model whose parts do not add up; it names the place and the possible flags."""
    flags = {name: getattr(model.cfg, name, None) for name in _SUSPECTS}
    shown = ", ".join(f"cfg.{k}={v!r}" for k, v in flags.items() if v not in (None, False))
    kind = "TransformerBridge" if hooked.is_bridge(model) else type(model).__name__
    return InputError(f"{what}: a part is not linear, or is scaled, in an unsupported way ({kind}; {shown})")


def _architecture(model: HookedModel) -> str | None:
    """Return the name of the model's architecture, or None."""
    return getattr(model.cfg, "original_architecture", None) or getattr(model.cfg, "architecture", None)
