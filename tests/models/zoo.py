"""Tiny random models of many architectures; `make architectures` runs the self-test on each.

Each entry changes a few fields of a common configuration. Names are those of transformers (`model_type`), followed by
what is special where an architecture has several forms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
"""Fields that most configurations share; the vocabulary fits the tokenizer of `tests.models.families`."""

GROUPED = {"num_key_value_heads": 2}
NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 7}
GPT = {
    "vocab_size": 320,
    "n_positions": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 48,
    "partial_rotary_factor": 1.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
}

ZOO: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "apertus": ("apertus", GROUPED),
    "arcee": ("arcee", GROUPED),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "codegen": ("codegen", {**GPT, "rotary_dim": 4, "n_ctx": 96}),
    "cohere": ("cohere", {**GROUPED, "logit_scale": 0.25}),
    "cohere2": ("cohere2", {**GROUPED, "logit_scale": 0.25, "sliding_window": 7}),
    "deepseek_v3": ("deepseek_v3", LATENT),
    "ernie4_5": ("ernie4_5", {**GROUPED, "head_dim": 8}),
    "exaone4": ("exaone4", GROUPED),
    "falcon": ("falcon", {"multi_query": True, "alibi": False, "ffn_hidden_size": 48}),
    "falcon, ALiBi": ("falcon", {"multi_query": False, "alibi": True, "ffn_hidden_size": 48}),
    "falcon, new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False}),
    "gemma": ("gemma", {**GROUPED, "head_dim": 8}),
    "gemma2": ("gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 8}),
    "gemma3_text": (
        "gemma3_text",
        {
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 7,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "glm": ("glm", {**GROUPED, "head_dim": 8}),
    "glm4": ("glm4", {**GROUPED, "head_dim": 8}),
    "gpt2": ("gpt2", GPT),
    "gpt_bigcode": ("gpt_bigcode", GPT),
    "gpt_neo": ("gpt_neo", NEO),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.25}),
    "gpt_oss": ("gpt_oss", {**GROUPED, "head_dim": 8, "num_local_experts": 4, "sliding_window": 7}),
    "gptj": ("gptj", {**GPT, "rotary_dim": 4}),
    "granite": (
        "granite",
        {**GROUPED, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    ),
    "granitemoe": ("granitemoe", {**GROUPED, "num_local_experts": 4, "logits_scaling": 4.0}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**GROUPED, "head_dim": 8}),
    "jamba": ("jamba", {**GROUPED, "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1}),
    "lfm2": ("lfm2", {**GROUPED, "full_attn_idxs": [1], "layer_types": ["conv", "full_attention"]}),
    "llama": ("llama", GROUPED),
    "llama, Llama 3 positions": ("llama", {**GROUPED, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "mamba": ("mamba", {"state_size": 8, "time_step_rank": 4}),
    "mistral": ("mistral", {**GROUPED, "sliding_window": 7}),
    "mixtral": ("mixtral", {**GROUPED, "num_local_experts": 4}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 96, "expansion_ratio": 2}),
    "nemotron": ("nemotron", GROUPED),
    "olmo": ("olmo", {"clip_qkv": 0.4}),
    "olmo2": ("olmo2", GROUPED),
    "olmo3": ("olmo3", {**GROUPED, "sliding_window": 7}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt, projected": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {**GROUPED, "sliding_window": 60}),
    "phi3, LongRoPE": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 48}),
    "qwen2": ("qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2_moe": ("qwen2_moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 8}),
    "qwen3_moe": ("qwen3_moe", {**GROUPED, **EXPERTS, "head_dim": 8}),
    "seed_oss": ("seed_oss", {**GROUPED, "head_dim": 8}),
    "smollm3": ("smollm3", GROUPED),
    "stablelm": ("stablelm", {"num_key_value_heads": 4}),
    "stablelm, per-head norms": ("stablelm", {"num_key_value_heads": 4, "qk_layernorm": True}),
    "starcoder2": ("starcoder2", GROUPED),
    "xglm": ("xglm", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48}),
}
"""Architectures by name: transformers' `model_type`, and the fields that differ from `SHAPE`."""


def zoo_config(name: str, **changes: object) -> PretrainedConfig:
    """Return the tiny configuration of one architecture."""
    kind, fields = ZOO[name]
    given = {**SHAPE, **fields, **changes}
    own = type(AutoConfig.for_model(kind))
    renamed = set(getattr(own, "attribute_map", {}))
    twice = {k for k in renamed if own.attribute_map[k] in given}
    return AutoConfig.for_model(kind, **{k: v for k, v in given.items() if k not in twice})


def zoo_model(name: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """Return a tiny random model of one architecture in eval mode, norms and biases randomised too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(zoo_config(name, **changes), attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    return model
