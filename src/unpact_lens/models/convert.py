"""A Hugging Face model as a hooked one, with its raw weights: no norm folded, nothing centred.

`to_hooked` copies the weights into a `HookedTransformer`; the configuration is written here, from the Hugging Face
configuration alone, because TransformerLens derives its own partly from the model's name. `to_bridge` wraps the model
as it is. Both give the logits of the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

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

from unpact_lens.errors import InputError
from unpact_lens.models.tied_embedding import shares_embedding


@dataclass(frozen=True)
class Family:
    """How one Hugging Face architecture becomes a `HookedTransformer`.

    Attributes:
        config: the fields of `HookedTransformerConfig` that the Hugging Face configuration decides.
        weights: the conversion of the weights.
        absent: last part of the names of parameters that a `HookedTransformer` has and this architecture has not; they
            are zero and stay so, in training too.
    """

    config: Callable[[Any], dict[str, Any]]
    weights: Callable[[Any, HookedTransformerConfig], dict[str, torch.Tensor]]
    absent: frozenset[str]


def _gpt2(c: Any) -> dict[str, Any]:
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


def _neox(c: Any) -> dict[str, Any]:
    _refuse(c, "attention without biases", not c.attention_bias)
    shape = _shape(c)
    return {
        **shape,
        **_rotary(c, shape["d_head"]),
        "eps": c.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": c.use_parallel_residual,
    }


def _llama(c: Any) -> dict[str, Any]:
    _refuse(c, "attention biases", getattr(c, "attention_bias", False) and c.model_type != "qwen2")
    _refuse(c, "MLP biases", getattr(c, "mlp_bias", False))
    shape = _shape(c)
    # The conversions of Mistral and Qwen2 name keys and values as grouped even where each head has its own.
    grouped = c.num_key_value_heads != c.num_attention_heads or c.model_type != "llama"
    return {
        **shape,
        **_rotary(c, shape["d_head"]),
        **_windows(c),
        "eps": c.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "n_key_value_heads": c.num_key_value_heads if grouped else None,
    }


def _shape(c: Any) -> dict[str, Any]:
    return {
        "n_layers": c.num_hidden_layers,
        "d_model": c.hidden_size,
        "n_heads": c.num_attention_heads,
        "d_head": getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
        "d_mlp": c.intermediate_size,
        "n_ctx": c.max_position_embeddings,
        "act_fn": c.hidden_act,
    }


def _rotary(c: Any, d_head: int) -> dict[str, Any]:
    """Rotary positions: plain, with linear scaling, or scaled by parts as Llama 3 does."""
    rope = c.rope_parameters
    kind = rope.get("rope_type", "default")
    fields: dict[str, Any] = {
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


def _windows(c: Any) -> dict[str, Any]:
    """Sliding windows, for all layers (Mistral) or for those the configuration lists (Qwen2)."""
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
"""By the name of the Hugging Face class."""


def _refuse(config: Any, what: str, present: bool) -> None:
    if present:
        raise InputError(
            f"{config.model_type} model with {what} cannot become a HookedTransformer with equal logits; "
            'load it with wrap="bridge"'
        )


def check_supported(architecture: str) -> None:
    """Refuse an architecture that has no conversion here.

    Args:
        architecture: name of the Hugging Face class, as the configuration's `architectures` gives it.

    Raises:
        InputError: naming it and what is supported.
    """
    if architecture not in FAMILIES:
        raise InputError(
            f"{architecture} cannot become a HookedTransformer; supported are {', '.join(FAMILIES)}. "
            'Other causal models may load with wrap="bridge"'
        )


def to_hooked(
    hf: Any, tokenizer: Any, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> HookedTransformer:
    """A `HookedTransformer` with a copy of a Hugging Face model's raw weights.

    Args:
        hf: a causal model of one of `FAMILIES`; it is not changed.
        tokenizer: its tokenizer, or None; a copy is attached.
        device: where the result stands; None for where `hf` stands.
        dtype: of the result's weights.

    Returns:
        The model in eval mode, its logits equal to those of `hf`. `.tied_embeddings` tells whether `W_U` must stay the
        transpose of `W_E`. Parameters that the architecture does not have are zero and do not require gradients.

    Raises:
        InputError: if the architecture, or something in its configuration, is not supported, or a weight is NaN.
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
    attach_tokenizer(model, tokenizer)
    return model.eval()


def to_bridge(
    hf: Any, tokenizer: Any, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> TransformerBridge:
    """A `TransformerBridge` around a copy of a Hugging Face model.

    Args:
        hf: any causal model that TransformerLens can bridge; it is not changed.
        tokenizer: its tokenizer; a copy is attached.
        device: where the result stands; None for where `hf` stands.
        dtype: of the result's weights.

    Returns:
        The bridge in eval mode. What TransformerLens adds to the model (an unembedding bias) or leaves unused in it
        (the fused query-key-value matrix) does not require gradients, so only the model's own weights are trained.

    Raises:
        InputError: if there is no tokenizer, TransformerLens has no bridge for the architecture, or a weight is NaN.
    """
    if tokenizer is None:
        raise InputError('wrap="bridge" needs a tokenizer; pass tokenizer=')
    check_sound(hf.named_parameters())
    model = copy.deepcopy(hf)
    model.to(device=device, dtype=dtype)
    known = copy.deepcopy(tokenizer)
    # So marked, TransformerLens takes the tokenizer as it is; else it would load another by its name.
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
    except (ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"TransformerLens cannot bridge a {type(hf).__name__}: {error}") from error
    if not unembedding_bias:
        bridge.original_model.get_output_embeddings().bias.requires_grad_(False)
    for name, parameter in bridge.named_parameters():
        if ".qkv." in name:
            parameter.requires_grad_(False)
    bridge.tied_embeddings = tied
    attach_tokenizer(bridge, tokenizer)
    return bridge.eval()


def fill(model: HookedTransformer, state: dict[str, torch.Tensor]) -> None:
    """Copy named weights into a model, all of its parameters and nothing else.

    Raises:
        InputError: naming the first weight that is missing, unknown, or of another shape.
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
    """Refuse weights that hold NaN or infinity.

    Raises:
        InputError: naming the first such tensor.
    """
    for name, tensor in named:
        if not torch.isfinite(tensor).all():
            raise InputError(f"weight {name} holds NaN or infinity; load a sound checkpoint")


def attach_tokenizer(model: Any, tokenizer: Any) -> None:
    """Give a model a copy of a tokenizer, exactly as it is, and the BOS convention of that tokenizer.

    `cfg.default_prepend_bos` becomes True if the tokenizer itself puts BOS before a text. Padding is set to the right,
    because TransformerLens hides leading tokens that look like padding when it is on the left.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`.
        tokenizer: a Hugging Face tokenizer, or None for a model that is given ids only.
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
    # The bridge's own setter would wrap the tokenizer anew and resize the vocabulary.
    setattr(model, "_tokenizer" if isinstance(model, TransformerBridge) else "tokenizer", own)


def prepends_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer puts its BOS before a text of its own accord."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
