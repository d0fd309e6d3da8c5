"""Convert a Hugging Face model to a hooked one with raw weights: no norm folded, no weight centred.

`to_hooked` copies the weights into a `HookedTransformer`. Its configuration is derived here from the Hugging Face
configuration alone, because TransformerLens derives its own partly from the model's name. `to_bridge` wraps the model.
Both give the logits of the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.pretrained.weight_conversions import (
    convert_gpt2_weights,
    convert_llama_weights,
    convert_mistral_weights,
    convert_neox_weights,
    convert_qwen2_weights,
)
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from unpact_lens.errors import InputError
from unpact_lens.models.tied_embedding import shares_embedding
from unpact_lens.models.weights import fused_weights


@dataclass(frozen=True)
class Family:
    """Describe how a Hugging Face architecture is converted to a `HookedTransformer`.

    Attributes:
        config: Function from the Hugging Face configuration to fields of `HookedTransformerConfig`.
        weights: Function that converts the weights.
        absent: Last parts of the names of parameters that a `HookedTransformer` has and the architecture lacks. They
            are zero and are not trained.
    """

    config: Callable[[PretrainedConfig], dict[str, object]]
    weights: Callable[[PreTrainedModel, HookedTransformerConfig], dict[str, torch.Tensor]]
    absent: frozenset[str]


def _gpt2(c: PretrainedConfig) -> dict[str, object]:
    _refuse(c, "cross-attention", c.add_cross_attention)
    return {
        "n_layers": c.n_layer,
        "d_model": c.n_embd,
        "n_heads": c.n_head,
        "d_head": c.n_embd // c.n_head,
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "n_ctx": c.n_positions,
        "act_fn": c.activation_function,
        "eps": c.layer_norm_epsilon,
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "use_attn_scale": c.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
    }


def _neox(c: PretrainedConfig) -> dict[str, object]:
    _refuse(c, "attention without biases", not c.attention_bias)
    return {
        **_shape(c),
        **_rotary(c, _d_head(c)),
        "eps": c.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": c.use_parallel_residual,
    }


def _llama(c: PretrainedConfig) -> dict[str, object]:
    _refuse(c, "attention biases", getattr(c, "attention_bias", False) and c.model_type != "qwen2")
    _refuse(c, "MLP biases", getattr(c, "mlp_bias", False))
    # The conversions of Mistral and Qwen2 use the names of grouped keys and values even if each head has its own.
    grouped = c.num_key_value_heads != c.num_attention_heads or c.model_type != "llama"
    return {
        **_shape(c),
        **_rotary(c, _d_head(c)),
        **_windows(c),
        "eps": c.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "n_key_value_heads": c.num_key_value_heads if grouped else None,
    }


def _d_head(c: PretrainedConfig) -> int:
    return getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads


def _shape(c: PretrainedConfig) -> dict[str, object]:
    return {
        "n_layers": c.num_hidden_layers,
        "d_model": c.hidden_size,
        "n_heads": c.num_attention_heads,
        "d_head": _d_head(c),
        "d_mlp": c.intermediate_size,
        "n_ctx": c.max_position_embeddings,
        "act_fn": c.hidden_act,
    }


def _rotary(c: PretrainedConfig, d_head: int) -> dict[str, object]:
    """Return the fields of rotary positions: plain, with linear scaling, or scaled by parts as in Llama 3."""
    rope = c.rope_parameters
    kind = rope.get("rope_type", "default")
    fields: dict[str, object] = {
        "positional_embedding_type": "rotary",
        "rotary_dim": int(d_head * rope.get("partial_rotary_factor", 1.0)),
        "rotary_base": rope["rope_theta"],
    }
    if kind == "linear":
        fields["rotary_scaling_factor"] = rope["factor"]
    elif kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    else:
        _refuse(c, f"rotary positions of type {kind!r}", kind != "default")
    return fields


def _windows(c: PretrainedConfig) -> dict[str, object]:
    """Return the fields of sliding windows, for all layers (Mistral) or for the listed layers (Qwen2)."""
    window = getattr(c, "sliding_window", None)
    if not window:
        return {}
    kinds = getattr(c, "layer_types", None) or ["sliding_attention"] * c.num_hidden_layers
    return {
        "use_local_attn": True,
        "window_size": window,
        "attn_types": ["local" if k == "sliding_attention" else "global" for k in kinds],
    }


_NO_BIAS = frozenset({"b_Q", "b_K", "b_V", "_b_K", "_b_V", "b_O", "b_in", "b_out", "b_U"})
FAMILIES = {
    "GPT2LMHeadModel": Family(_gpt2, convert_gpt2_weights, frozenset({"b_U"})),
    "GPTNeoXForCausalLM": Family(_neox, convert_neox_weights, frozenset({"b_U"})),
    "LlamaForCausalLM": Family(_llama, convert_llama_weights, _NO_BIAS),
    "MistralForCausalLM": Family(_llama, convert_mistral_weights, _NO_BIAS),
    "Qwen2ForCausalLM": Family(_llama, convert_qwen2_weights, frozenset({"b_O", "b_in", "b_out", "b_U"})),
}
"""Convertible architectures, by the name of the Hugging Face class."""


def _refuse(config: PretrainedConfig, what: str, present: bool) -> None:
    if present:
        raise InputError(
            f"{config.model_type} model with {what} cannot become a HookedTransformer with equal logits; "
            'load it with wrap="bridge"'
        )


def check_supported(architecture: str) -> None:
    """Check that an architecture can be converted.

    Args:
        architecture: Name of the Hugging Face class, as in the configuration's `architectures`.

    Raises:
        InputError: If it cannot. The message lists the supported architectures.
    """
    if architecture not in FAMILIES:
        raise InputError(
            f"{architecture} cannot become a HookedTransformer; supported are {', '.join(FAMILIES)}. "
            'Other causal models may load with wrap="bridge"'
        )


def to_hooked(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> HookedTransformer:
    """Convert a Hugging Face model to a `HookedTransformer` with a copy of its raw weights.

    Args:
        hf: Causal model of one of `FAMILIES`; it is not changed.
        tokenizer: Tokenizer of the model, or None; a copy is attached.
        device: Device of the result. If None, the device of `hf`.
        dtype: Type of the result's weights.

    Returns:
        The model in eval mode, with the logits of `hf`. `.tied_embeddings` is True if `W_U` must stay the transpose of
        `W_E`. Parameters that the architecture lacks are zero and do not require gradients.

    Raises:
        InputError: If the architecture or its configuration is not supported, or a weight is NaN.
    """
    architecture = type(hf).__name__
    check_supported(architecture)
    family = FAMILIES[architecture]
    fields = family.config(hf.config)
    _refuse(hf.config, f"the activation {fields['act_fn']!r}", fields["act_fn"] not in SUPPORTED_ACTIVATIONS)
    check_sound(hf.named_parameters())
    target = torch.device(device) if device is not None else next(hf.parameters()).device
    config = HookedTransformerConfig(
        **fields,
        d_vocab=hf.get_input_embeddings().weight.shape[0],
        model_name=hf.config.model_type,
        original_architecture=architecture,
        init_weights=False,
        default_prepend_bos=False,
        device=str(target),
        dtype=dtype,
    )
    model = HookedTransformer(config)
    with torch.no_grad():
        fill(model, {"unembed.b_U": torch.zeros(config.d_vocab), **family.weights(hf, config)})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[-1] not in family.absent)
    model.tied_embeddings = shares_embedding(hf)
    model.generation_config = copy.deepcopy(getattr(hf, "generation_config", None))
    attach_tokenizer(model, tokenizer)
    return model.eval()


def to_bridge(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> TransformerBridge:
    """Wrap a copy of a Hugging Face model in a `TransformerBridge`.

    Args:
        hf: Causal model of any architecture that TransformerLens can bridge; it is not changed.
        tokenizer: Tokenizer of the model; a copy is attached.
        device: Device of the result. If None, the device of `hf`.
        dtype: Type of the result's weights.

    Returns:
        The bridge in eval mode. Only the model's own weights require gradients. The unembedding bias that
        TransformerLens adds and the fused query-key-value matrix that it does not use do not.

    Raises:
        InputError: If there is no tokenizer, TransformerLens has no bridge for the architecture, or a weight is NaN.
    """
    if tokenizer is None:
        raise InputError('wrap="bridge" needs a tokenizer; pass tokenizer=')
    check_sound(hf.named_parameters())
    model = copy.deepcopy(hf)
    model.config.architectures = [type(hf).__name__]  # a model that was made in memory may name none
    model.to(device=device, dtype=dtype)
    known = copy.deepcopy(tokenizer)
    # With these entries TransformerLens uses the tokenizer as it is. Otherwise it would load another one by its name.
    known.init_kwargs = {**known.init_kwargs, "name_or_path": "", "add_bos_token": True}
    unembedding_bias = getattr(model.get_output_embeddings(), "bias", None) is not None
    tied = shares_embedding(model)
    target = next(model.parameters()).device
    try:
        bridge = TransformerBridge.boot_transformers(
            hf.config.model_type,
            hf_model=model,
            tokenizer=known,
            device=str(target),
            dtype=dtype,
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0].split(" Available architectures:")[0]
        raise InputError(f"TransformerLens cannot bridge a {type(hf).__name__}: {reason}") from error
    if not unembedding_bias and getattr(bridge.original_model.get_output_embeddings(), "bias", None) is not None:
        bridge.original_model.get_output_embeddings().bias.requires_grad_(False)
    for fused in fused_weights(bridge):
        fused.weight.requires_grad_(False)
    bridge.tied_embeddings = tied
    attach_tokenizer(bridge, tokenizer)
    return bridge.eval()


def fill(model: HookedTransformer, state: dict[str, torch.Tensor]) -> None:
    """Copy named weights into a model.

    Raises:
        InputError: If a weight is missing, unknown, or of another shape. No weight is copied then.
    """
    parameters = dict(model.named_parameters())
    for name in parameters.keys() | state.keys():
        if name not in state:
            raise InputError(f"weight {name} is missing")
        if name not in parameters:
            raise InputError(f"weight {name} is not part of this model")
        if parameters[name].shape != state[name].shape:
            raise InputError(
                f"weight {name} has shape {tuple(state[name].shape)}, expected {tuple(parameters[name].shape)}"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def check_sound(named: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Check that no weight contains NaN or infinity.

    Raises:
        InputError: If one does. The message names the first such tensor.
    """
    for name, tensor in named:
        if not torch.isfinite(tensor).all():
            raise InputError(f"weight {name} holds NaN or infinity; load a sound checkpoint")


def attach_tokenizer(model: HookedTransformer | TransformerBridge, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Attach a copy of a tokenizer to a model, and set the model's BOS convention to the tokenizer's.

    `cfg.default_prepend_bos` becomes True if the tokenizer itself prepends BOS. Padding is set to the right, because
    with left padding TransformerLens masks leading tokens that look like padding.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`.
        tokenizer: Hugging Face tokenizer, or None for a model that takes ids only.
    """
    if tokenizer is None:
        return
    own = copy.deepcopy(tokenizer)
    own.padding_side = "right"
    if own.pad_token_id is None:
        own.pad_token = own.eos_token or own.bos_token or own.convert_ids_to_tokens(0)
    prepends = prepends_bos(own)
    model.cfg.tokenizer_prepends_bos = prepends
    model.cfg.default_prepend_bos = prepends
    # The bridge's own setter would wrap the tokenizer again and resize the vocabulary.
    setattr(model, "_tokenizer" if isinstance(model, TransformerBridge) else "tokenizer", own)


def prepends_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer prepends its BOS token by default."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
