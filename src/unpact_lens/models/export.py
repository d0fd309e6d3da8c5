"""Export a hooked model to a Hugging Face directory that transformers loads, with the same logits.

This is the inverse of `convert.py`.

1. Derive the Hugging Face configuration from the TransformerLens one.
2. Lay the weights out as the architecture stores them. A weight without a place in the architecture must be zero.
3. Compare the logits of both models on a probe.
4. Write the directory.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.answer_end import generation_config
from unpact_lens.models.checkpoint import clone, fresh_directory, has_mark
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.hooked_families import FAMILIES
from unpact_lens.models.lens_version import HookedTransformerConfig
from unpact_lens.models.low_rank import is_adapted
from unpact_lens.models.random_state import random_state_kept
from unpact_lens.models.tied_embedding import is_tied
from unpact_lens.models.weights import source_state
from unpact_lens.progress import transformers_progress

MARK = "unpact_lens_export"
"""Entry of `config.json` that marks an export of this library; only such directories are replaced."""

EXPORTED = (
    "*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "chat_templates/*", "additional_chat_templates/*",
)  # fmt: skip
"""Patterns of the files that exports without a manifest hold: what `save_pretrained` writes."""

PROBE_TOKENS = 16
"""Length of the probe on which logits are compared."""

TOLERANCE = 1e-4
"""Largest difference of logits due to rounding in fp32, for logits of order 1; it scales with larger logits."""

State = dict[str, Tensor]
"""Weights by name."""


def export_hf(model: HookedModel, path: str | os.PathLike[str]) -> Path:
    """Write a hooked model as a Hugging Face directory: config.json, model.safetensors, and its tokenizer.

    A `HookedTransformer` without a Hugging Face origin is exported in an architecture that computes the same: GPT-2
    (learned positions), GPT-NeoX (LayerNorm, rotary) or Llama and Qwen2 (RMSNorm, gated, rotary). One that was made
    from a Hugging Face model is exported in its architecture if that is GPT-2, GPT-NeoX, Llama, Mistral or Qwen2. A
    bridge is exported in its own architecture, whatever that is. Adapters are merged into the exported weights.

    Args:
        model: A `HookedTransformer` with raw (unfolded) weights, or a `TransformerBridge`.
        path: Directory. It must not exist, be empty, or contain an earlier export.

    Returns:
        The directory.

    Raises:
        InputError: If `path` contains something else, no architecture fits the model, a nonzero weight has no place in
            the architecture, or the logits of the exported model differ.
    """
    target = Path(path)
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not has_mark(target, MARK)):
        raise InputError(f"{target} exists and is not an exported model; give another directory")
    if hooked.members_of(model):
        raise InputError(
            f"a {type(model).__name__} is a combined model, and no Hugging Face architecture is; export one of its "
            "members, or save it with unpact_lens.save"
        )
    if is_adapted(model):
        model = clone(model)
    config, state = _from_bridge(model) if hooked.is_bridge(model) else _from_hooked(model)
    setattr(config, MARK, 1)
    hf = _build(config, state, model.cfg.dtype)
    generation = generation_config(model)
    if generation is not None:
        hf.generation_config = copy.deepcopy(generation)
    _check_logits(model, hf)
    with fresh_directory(target, EXPORTED) as directory, transformers_progress():
        hf.save_pretrained(directory)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(directory)
    return target


def _build(config: PretrainedConfig, state: State, dtype: torch.dtype) -> PreTrainedModel:
    # The random weights are overwritten; the caller's random state is not changed.
    with random_state_kept():
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    head = next(name for name, module in hf.named_modules() if module is hf.get_output_embeddings())
    # Early releases of transformers 5 call it `embed_out` in GPT-NeoX.
    state = {re.sub(r"^lm_head(?=\.)", head, name): weight for name, weight in state.items()}
    try:
        missing, unexpected = hf.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"as {type(hf).__name__} this model cannot be exported: {reason}") from None
    if unexpected or [m for m in missing if not (config.tie_word_embeddings and m == f"{head}.weight")]:
        raise InputError(f"{config.model_type} has no place for {[*missing, *unexpected][0]}; it cannot be exported")
    return hf.eval()


def _check_logits(model: HookedModel, hf: PreTrainedModel) -> None:
    """Check that both models give the same logits on a fixed probe.

    Raises:
        InputError: If the logits differ by more than rounding.
    """
    length = min(PROBE_TOKENS, model.cfg.n_ctx)
    ids = (torch.arange(length) * 7919 + 1)[None] % model.cfg.d_vocab
    with torch.inference_mode():
        ours = model(ids.to(hooked.device_of(model)), return_type="logits").float().cpu()
        theirs = hf(ids).logits.float()
    scale = TOLERANCE if model.cfg.dtype in (torch.float32, torch.float64) else 0.05
    difference = float((ours - theirs).abs().max())
    if not difference <= scale * max(1.0, float(ours.abs().max())):
        raise InputError(
            f"as {type(hf).__name__} this model's logits would differ by {difference:.2g}; something in its "
            "configuration has no counterpart there"
        )


def _from_hooked(model: HookedModel) -> tuple[PretrainedConfig, State]:
    """Return the Hugging Face configuration and weights of a `HookedTransformer`."""
    architecture = _architecture(model)
    layout, absent = _LAYOUTS[architecture], FAMILIES[architecture].absent
    weights = {name: tensor.detach().cpu() for name, tensor in model.named_parameters()}
    for name, tensor in weights.items():
        if name.split(".")[-1] in absent and tensor.count_nonzero():
            raise InputError(
                f"{name} is not zero, and {architecture} has no place for it; the model cannot be exported"
            )
    config = _CONFIGS[architecture](model.cfg)
    config.architectures = [architecture]
    config.tie_word_embeddings = is_tied(model)
    if model.tokenizer is not None:
        config.bos_token_id, config.eos_token_id = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    return config, {name: tensor.contiguous().clone() for name, tensor in layout(weights, model.cfg).items()}


def _architecture(model: HookedModel) -> str:
    """Return the name of a Hugging Face architecture that computes the same as this model."""
    cfg: HookedTransformerConfig = model.cfg
    known = getattr(cfg, "original_architecture", None)
    if known in _LAYOUTS:
        return known
    if known is not None:
        raise InputError(
            f"a HookedTransformer of a {known} cannot be exported (those of {', '.join(_LAYOUTS)} can); load the "
            'original with wrap="bridge", which exports in its own architecture'
        )
    if cfg.normalization_type == "LN" and not cfg.gated_mlp and not cfg.attn_only:
        if cfg.positional_embedding_type == "standard" and not cfg.parallel_attn_mlp:
            return "GPT2LMHeadModel"
        if cfg.positional_embedding_type == "rotary":
            return "GPTNeoXForCausalLM"
    if cfg.normalization_type == "RMS" and cfg.gated_mlp and cfg.positional_embedding_type == "rotary":
        biases = [p for n, p in model.named_parameters() if n.endswith((".b_Q", "b_K", "b_V"))]
        return "Qwen2ForCausalLM" if any(b.count_nonzero() for b in biases) else "LlamaForCausalLM"
    folded = " and folded weights" if "Pre" in str(cfg.normalization_type) else ""
    raise InputError(
        f"no Hugging Face architecture among {', '.join(_LAYOUTS)} has {cfg.normalization_type} norms with "
        f"{cfg.positional_embedding_type} positions{folded}"
    )


def _gpt2_config(c: HookedTransformerConfig) -> GPT2Config:
    return GPT2Config(
        vocab_size=c.d_vocab,
        n_positions=c.n_ctx,
        n_embd=c.d_model,
        n_layer=c.n_layers,
        n_head=c.n_heads,
        n_inner=c.d_mlp,
        activation_function=c.act_fn,
        layer_norm_epsilon=c.eps,
        scale_attn_weights=c.use_attn_scale,
        scale_attn_by_inverse_layer_idx=c.scale_attn_by_inverse_layer_idx,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _neox_config(c: HookedTransformerConfig) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        **_shape(c),
        layer_norm_eps=c.eps,
        use_parallel_residual=c.parallel_attn_mlp,
        rope_parameters={**_rope(c), "partial_rotary_factor": c.rotary_dim / c.d_head},
    )


def _llama_config(c: HookedTransformerConfig) -> LlamaConfig:
    return LlamaConfig(**_shape(c), **_grouped(c), rope_parameters=_rope(c))


def _mistral_config(c: HookedTransformerConfig) -> MistralConfig:
    window = c.window_size if c.use_local_attn else None
    return MistralConfig(**_shape(c), **_grouped(c), rope_parameters=_rope(c), sliding_window=window)


def _qwen2_config(c: HookedTransformerConfig) -> Qwen2Config:
    if not c.use_local_attn:
        return Qwen2Config(**_shape(c), **_grouped(c), rope_parameters=_rope(c))
    kinds = ["sliding_attention" if kind == "local" else "full_attention" for kind in c.attn_types]
    return Qwen2Config(
        **_shape(c),
        **_grouped(c),
        rope_parameters=_rope(c),
        use_sliding_window=True,
        sliding_window=c.window_size,
        layer_types=kinds,
    )


def _shape(c: HookedTransformerConfig) -> dict[str, object]:
    return {
        "vocab_size": c.d_vocab,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "intermediate_size": c.d_mlp,
        "max_position_embeddings": c.n_ctx,
        "hidden_act": c.act_fn,
    }


def _grouped(c: HookedTransformerConfig) -> dict[str, object]:
    return {"num_key_value_heads": c.n_key_value_heads or c.n_heads, "head_dim": c.d_head, "rms_norm_eps": c.eps}


def _rope(c: HookedTransformerConfig) -> dict[str, object]:
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": float(c.rotary_base)}
    if c.use_NTK_by_parts_rope:
        return {
            **rope,
            "rope_type": "llama3",
            "factor": c.NTK_by_parts_factor,
            "low_freq_factor": c.NTK_by_parts_low_freq_factor,
            "high_freq_factor": c.NTK_by_parts_high_freq_factor,
            "original_max_position_embeddings": c.NTK_original_ctx_len,
        }
    factor = getattr(c, "rotary_scaling_factor", None) or 1.0
    return {**rope, "rope_type": "linear", "factor": factor} if factor != 1.0 else rope


def _gpt2_layout(w: State, c: HookedTransformerConfig) -> State:
    state = {
        "transformer.wte.weight": w["embed.W_E"],
        "transformer.wpe.weight": w["pos_embed.W_pos"],
        "transformer.ln_f.weight": w["ln_final.w"],
        "transformer.ln_f.bias": w["ln_final.b"],
        "lm_head.weight": w["unembed.W_U"].T,
    }
    for layer in range(c.n_layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        fused = [rearrange(w[f"{ours}.attn.W_{x}"], "n m h -> m (n h)") for x in "QKV"]
        state |= {
            f"{theirs}.ln_1.weight": w[f"{ours}.ln1.w"],
            f"{theirs}.ln_1.bias": w[f"{ours}.ln1.b"],
            f"{theirs}.ln_2.weight": w[f"{ours}.ln2.w"],
            f"{theirs}.ln_2.bias": w[f"{ours}.ln2.b"],
            f"{theirs}.attn.c_attn.weight": torch.cat(fused, dim=1),
            f"{theirs}.attn.c_attn.bias": torch.cat([w[f"{ours}.attn.b_{x}"].flatten() for x in "QKV"]),
            f"{theirs}.attn.c_proj.weight": rearrange(w[f"{ours}.attn.W_O"], "n h m -> (n h) m"),
            f"{theirs}.attn.c_proj.bias": w[f"{ours}.attn.b_O"],
            f"{theirs}.mlp.c_fc.weight": w[f"{ours}.mlp.W_in"],
            f"{theirs}.mlp.c_fc.bias": w[f"{ours}.mlp.b_in"],
            f"{theirs}.mlp.c_proj.weight": w[f"{ours}.mlp.W_out"],
            f"{theirs}.mlp.c_proj.bias": w[f"{ours}.mlp.b_out"],
        }
    return state


def _neox_layout(w: State, c: HookedTransformerConfig) -> State:
    state = {
        "gpt_neox.embed_in.weight": w["embed.W_E"],
        "gpt_neox.final_layer_norm.weight": w["ln_final.w"],
        "gpt_neox.final_layer_norm.bias": w["ln_final.b"],
        "lm_head.weight": w["unembed.W_U"].T,
    }
    for layer in range(c.n_layers):
        ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
        # The fused rows are ordered by head, and within a head by query, key, value.
        fused = rearrange([w[f"{ours}.attn.W_{x}"] for x in "QKV"], "qkv n m h -> (n qkv h) m")
        biases = rearrange([w[f"{ours}.attn.b_{x}"] for x in "QKV"], "qkv n h -> (n qkv h)")
        state |= {
            f"{theirs}.input_layernorm.weight": w[f"{ours}.ln1.w"],
            f"{theirs}.input_layernorm.bias": w[f"{ours}.ln1.b"],
            f"{theirs}.post_attention_layernorm.weight": w[f"{ours}.ln2.w"],
            f"{theirs}.post_attention_layernorm.bias": w[f"{ours}.ln2.b"],
            f"{theirs}.attention.query_key_value.weight": fused,
            f"{theirs}.attention.query_key_value.bias": biases,
            f"{theirs}.attention.dense.weight": rearrange(w[f"{ours}.attn.W_O"], "n h m -> m (n h)"),
            f"{theirs}.attention.dense.bias": w[f"{ours}.attn.b_O"],
            f"{theirs}.mlp.dense_h_to_4h.weight": w[f"{ours}.mlp.W_in"].T,
            f"{theirs}.mlp.dense_h_to_4h.bias": w[f"{ours}.mlp.b_in"],
            f"{theirs}.mlp.dense_4h_to_h.weight": w[f"{ours}.mlp.W_out"].T,
            f"{theirs}.mlp.dense_4h_to_h.bias": w[f"{ours}.mlp.b_out"],
        }
    return state


def _llama_layout(w: State, c: HookedTransformerConfig, biases: bool = False) -> State:
    state = {
        "model.embed_tokens.weight": w["embed.W_E"],
        "model.norm.weight": w["ln_final.w"],
        "lm_head.weight": w["unembed.W_U"].T,
    }
    shared = "_" if c.n_key_value_heads else ""
    for layer in range(c.n_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        state |= {
            f"{theirs}.input_layernorm.weight": w[f"{ours}.ln1.w"],
            f"{theirs}.post_attention_layernorm.weight": w[f"{ours}.ln2.w"],
            f"{theirs}.self_attn.o_proj.weight": rearrange(w[f"{ours}.attn.W_O"], "n h m -> m (n h)"),
            f"{theirs}.mlp.gate_proj.weight": w[f"{ours}.mlp.W_gate"].T,
            f"{theirs}.mlp.up_proj.weight": w[f"{ours}.mlp.W_in"].T,
            f"{theirs}.mlp.down_proj.weight": w[f"{ours}.mlp.W_out"].T,
        }
        for name, mark in (("q", ""), ("k", shared), ("v", shared)):
            matrix = w[f"{ours}.attn.{mark}W_{name.upper()}"]
            state[f"{theirs}.self_attn.{name}_proj.weight"] = rearrange(matrix, "n m h -> (n h) m")
            if biases:
                state[f"{theirs}.self_attn.{name}_proj.bias"] = w[f"{ours}.attn.{mark}b_{name.upper()}"].flatten()
    return state


def _qwen2_layout(w: State, c: HookedTransformerConfig) -> State:
    return _llama_layout(w, c, biases=True)


_CONFIGS: dict[str, Callable[[HookedTransformerConfig], PretrainedConfig]] = {
    "GPT2LMHeadModel": _gpt2_config,
    "GPTNeoXForCausalLM": _neox_config,
    "LlamaForCausalLM": _llama_config,
    "MistralForCausalLM": _mistral_config,
    "Qwen2ForCausalLM": _qwen2_config,
}
_LAYOUTS: dict[str, Callable[[State, HookedTransformerConfig], State]] = {
    "GPT2LMHeadModel": _gpt2_layout,
    "GPTNeoXForCausalLM": _neox_layout,
    "LlamaForCausalLM": _llama_layout,
    "MistralForCausalLM": _llama_layout,
    "Qwen2ForCausalLM": _qwen2_layout,
}


def _from_bridge(model: HookedModel) -> tuple[PretrainedConfig, State]:
    """Return the configuration and the weights of a bridge's own architecture.

    A bridge uses and trains the parts of a fused matrix. The fused matrix itself is out of date and is put together.
    """
    hf = model.original_model
    config = AutoConfig.for_model(**hf.config.to_dict())
    held = source_state(model)
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(config).state_dict()
    bias = held.get("lm_head.bias")
    if bias is not None and "lm_head.bias" not in expected and bias.count_nonzero():
        raise InputError(f"the unembedding bias is not zero, and {type(hf).__name__} has no place for it")
    state = {}
    for name, like in expected.items():
        tensor = held.get(name)
        if tensor is None or tensor.shape != like.shape:
            raise InputError(f"a bridged {config.model_type} cannot be exported: {name} is not found in it")
        state[name] = tensor.cpu().contiguous().clone()
    return config, state
