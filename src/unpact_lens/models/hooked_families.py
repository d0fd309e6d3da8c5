"""Describe how each Hugging Face architecture becomes a `HookedTransformer`: its configuration and its weights.

The weights are converted by TransformerLens. Its configurations of some architectures are tables of known model names,
so these are derived here from the Hugging Face configuration alone; the others are TransformerLens's own, corrected
where it assumes sizes. Nothing is folded or centred. The self-test at load compares the logits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from unpact_lens.errors import InputError
from unpact_lens.models.lens_version import HAS_HOOKED, HookedTransformerConfig, convert_hf_model_config, require_hooked
from unpact_lens.models.lens_version import weight_conversions as conversions

LONGEST_CONTEXT = 8192
"""Longest context of a `HookedTransformer`: each of its layers holds a mask of the square of that size."""


@dataclass(frozen=True)
class Family:
    """Describe how a Hugging Face architecture is converted to a `HookedTransformer`.

    Attributes:
        config: Function from the Hugging Face configuration to fields of `HookedTransformerConfig`.
        weights: Function that converts the weights.
        absent: Last parts of the names of parameters that a `HookedTransformer` has and the architecture lacks, as
            the export needs them. They are zero and are not trained.
        embedding_scale: Function from the configuration to the factor between the two uses of a tied embedding.
    """

    config: Callable[[PretrainedConfig], dict[str, object]]
    weights: Callable[[PreTrainedModel, HookedTransformerConfig], dict[str, torch.Tensor]]
    absent: frozenset[str] = frozenset()
    embedding_scale: Callable[[PretrainedConfig], float] = lambda config: 1.0


def _gpt2(c: PretrainedConfig) -> dict[str, object]:
    refuse(c, "cross-attention", c.add_cross_attention)
    return {
        "n_layers": c.n_layer,
        "d_model": c.n_embd,
        "n_heads": c.n_head,
        "d_head": c.n_embd // c.n_head,
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "n_ctx": min(c.n_positions, LONGEST_CONTEXT),
        "act_fn": c.activation_function,
        "eps": c.layer_norm_epsilon,
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "use_attn_scale": c.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
    }


def _neox(c: PretrainedConfig) -> dict[str, object]:
    refuse(c, "attention without biases", not c.attention_bias)
    return {
        **_shape(c),
        **_rotary(c, _d_head(c)),
        "eps": c.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": c.use_parallel_residual,
    }


def _llama(c: PretrainedConfig) -> dict[str, object]:
    refuse(c, "attention biases", getattr(c, "attention_bias", False) and c.model_type != "qwen2")
    refuse(c, "MLP biases", getattr(c, "mlp_bias", False))
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
        "n_ctx": min(c.max_position_embeddings, LONGEST_CONTEXT),
        "act_fn": getattr(c, "hidden_act", None) or c.hidden_activation,
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
        refuse(c, f"rotary positions of type {kind!r}", kind != "default")
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


def _gemma(c: PretrainedConfig) -> dict[str, object]:
    """Return the fields of Gemma 1 to 3; their norms add 1 to their weights, which the conversion of weights does."""
    second = c.model_type != "gemma"
    fields = {
        **_shape(c),
        **_windows(c),
        "act_fn": getattr(c, "hidden_activation", None) or c.hidden_act,
        "eps": c.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "n_key_value_heads": c.num_key_value_heads,
        "use_normalization_before_and_after": second,
    }
    if second:
        fields |= {
            "attn_scale": float(c.query_pre_attn_scalar) ** 0.5,
            "attn_scores_soft_cap": c.attn_logit_softcapping or -1.0,
            "output_logits_soft_cap": c.final_logit_softcapping or -1.0,
        }
    if "full_attention" not in c.rope_parameters:
        return {**fields, **_rotary(c, _d_head(c))}
    whole, near = c.rope_parameters["full_attention"], c.rope_parameters["sliding_attention"]
    refuse(c, "scaled rotary positions in its sliding windows", near.get("rope_type", "default") != "default")
    kind = whole.get("rope_type", "default")
    refuse(c, f"rotary positions of type {kind!r}", kind not in ("default", "linear"))
    return {
        **fields,
        "use_qk_norm": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": _d_head(c),
        "rotary_base": whole["rope_theta"],
        "rotary_base_local": near["rope_theta"],
        "rotary_scaling_factor": whole.get("factor", 1.0) if kind == "linear" else 1.0,
    }


def _olmo(c: PretrainedConfig) -> dict[str, object]:
    grouped = c.num_key_value_heads != c.num_attention_heads
    refuse(c, "grouped keys and values", grouped)
    refuse(c, "attention biases", c.attention_bias)
    first = c.model_type == "olmo"
    return {
        **_shape(c),
        **_rotary(c, _d_head(c)),
        "eps": 1e-5 if first else c.rms_norm_eps,
        "normalization_type": "LN" if first else "RMS",
        "gated_mlp": True,
        "clip_qkv": getattr(c, "clip_qkv", None),
    }


def _phi(c: PretrainedConfig) -> dict[str, object]:
    refuse(c, "norms of queries and keys", c.qk_layernorm)
    return {
        **_shape(c),
        **_rotary(c, _d_head(c)),
        "eps": c.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": True,
    }


def _of_transformer_lens(c: PretrainedConfig) -> dict[str, object]:
    """Return the fields that TransformerLens derives, with the sizes and windows of the configuration itself."""
    with tempfile.TemporaryDirectory() as folder:
        c.save_pretrained(folder)
        fields = convert_hf_model_config(_Nameless(folder))
    for name in _NOT_THE_MODEL:
        fields.pop(name, None)
    longest = getattr(c, "max_position_embeddings", None) or fields["n_ctx"]
    fields["n_ctx"] = min(longest, LONGEST_CONTEXT)
    fields["rotary_base"] = fields.get("rotary_base", 10000)
    kind = (getattr(c, "rope_parameters", None) or {}).get("rope_type", "default")
    handled = {"apertus": ("llama3",), "gpt_oss": ("yarn",)}.get(c.model_type, ())
    refuse(c, f"rotary positions of type {kind!r}", kind not in ("default", *handled))
    if c.model_type in ("qwen3", "phi3", "mixtral"):
        fields |= _windows(c)
    return fields


def _gpt_neo(c: PretrainedConfig) -> dict[str, object]:
    return {**_of_transformer_lens(c), "d_mlp": c.intermediate_size or 4 * c.hidden_size}


def _gptj(c: PretrainedConfig) -> dict[str, object]:
    return {**_of_transformer_lens(c), "d_mlp": c.n_inner or 4 * c.n_embd}


def _opt(c: PretrainedConfig) -> dict[str, object]:
    refuse(c, "norms after each layer", not c.do_layer_norm_before)
    refuse(c, "a projected embedding", c.word_embed_proj_dim != c.hidden_size)
    refuse(c, "attention without biases", not c.enable_bias)
    refuse(c, "norms without weights", not c.layer_norm_elementwise_affine)
    return _of_transformer_lens(c)


def _bloom(c: PretrainedConfig) -> dict[str, object]:
    refuse(c, "residual streams after the norm", c.apply_residual_connection_post_layernorm)
    return _of_transformer_lens(c)


class _Nameless(str):
    """Hide the name of a directory from TransformerLens, which takes some architectures from words in it."""

    def lower(self) -> str:
        return ""

    def __contains__(self, word: object) -> bool:
        return False


_NOT_THE_MODEL = (
    "dtype", "tokenizer_name", "trust_remote_code", "quantization_method", "default_prepend_bos",
    "tokenizer_prepends_bos", "original_architecture", "d_vocab", "load_in_4bit", "initializer_range",
    "tie_word_embeddings",
)  # fmt: skip
"""Fields of TransformerLens's configuration that say how to load a model, not what it computes."""


def _root_of_width(c: PretrainedConfig) -> float:
    return float(c.hidden_size) ** 0.5


_NO_BIAS = frozenset({"b_Q", "b_K", "b_V", "_b_K", "_b_V", "b_O", "b_in", "b_out", "b_U"})
FAMILIES: dict[str, Family] = (
    {}
    if not HAS_HOOKED
    else {
        "GPT2LMHeadModel": Family(_gpt2, conversions.convert_gpt2_weights, frozenset({"b_U"})),
        "GPTNeoXForCausalLM": Family(_neox, conversions.convert_neox_weights, frozenset({"b_U"})),
        "LlamaForCausalLM": Family(_llama, conversions.convert_llama_weights, _NO_BIAS),
        "MistralForCausalLM": Family(_llama, conversions.convert_mistral_weights, _NO_BIAS),
        "Qwen2ForCausalLM": Family(
            _llama, conversions.convert_qwen2_weights, frozenset({"b_O", "b_in", "b_out", "b_U"})
        ),
        "ApertusForCausalLM": Family(_of_transformer_lens, conversions.convert_apertus_weights),
        "BloomForCausalLM": Family(_bloom, conversions.convert_bloom_weights),
        "GemmaForCausalLM": Family(_gemma, conversions.convert_gemma_weights, embedding_scale=_root_of_width),
        "Gemma2ForCausalLM": Family(_gemma, conversions.convert_gemma_weights, embedding_scale=_root_of_width),
        "Gemma3ForCausalLM": Family(_gemma, conversions.convert_gemma_weights, embedding_scale=_root_of_width),
        "GPTJForCausalLM": Family(_gptj, conversions.convert_gptj_weights),
        "GPTNeoForCausalLM": Family(_gpt_neo, conversions.convert_neo_weights),
        "GptOssForCausalLM": Family(_of_transformer_lens, conversions.convert_gpt_oss_weights),
        "MixtralForCausalLM": Family(_of_transformer_lens, conversions.convert_mixtral_weights),
        "OlmoForCausalLM": Family(_olmo, conversions.convert_olmo_weights),
        "Olmo2ForCausalLM": Family(_olmo, conversions.convert_olmo2_weights),
        "Olmo3ForCausalLM": Family(_of_transformer_lens, conversions.convert_olmo3_weights),
        "OlmoeForCausalLM": Family(_of_transformer_lens, conversions.convert_olmoe_weights),
        "OPTForCausalLM": Family(_opt, conversions.convert_opt_weights),
        "PhiForCausalLM": Family(_phi, conversions.convert_phi_weights),
        "Phi3ForCausalLM": Family(_of_transformer_lens, conversions.convert_phi3_weights),
        "Qwen3ForCausalLM": Family(_of_transformer_lens, conversions.convert_qwen3_weights),
    }
)
"""Convertible architectures, by the name of the Hugging Face class; none where there is no `HookedTransformer`."""


def refuse(config: PretrainedConfig, what: str, present: bool) -> None:
    """Refuse a model that has something which a `HookedTransformer` lacks; the message points to the bridge."""
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
        InputError: If it cannot. The message lists the supported architectures, or names the version of TransformerLens
            that has HookedTransformer.
    """
    require_hooked('wrap="hooked"')
    if architecture not in FAMILIES:
        raise InputError(
            f"{architecture} cannot become a HookedTransformer; supported are {', '.join(FAMILIES)}. "
            'Other causal models may load with wrap="bridge"'
        )
