"""Identify a model by all that decides its answers: weights, configuration and tokenizer."""

from __future__ import annotations

import hashlib
import json

from transformers import PreTrainedTokenizerBase

from unpact_lens.models import hooked
from unpact_lens.models.answer_end import generation_config
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.hooked import HookedModel

WHERE_IT_RUNS = ("device", "n_devices")
"""Entries of a TransformerLens configuration that say where a model runs, not what it computes."""

WHERE_IT_CAME_FROM = ("_name_or_path", "transformers_version")
"""Entries of a Hugging Face configuration that say where a model came from, not what it computes."""


def model_fingerprint(model: HookedModel) -> str:
    """Compute the SHA-256 of a model's weights, configuration and tokenizer.

    Two models with equal weights differ if, for example, their end tokens, chat templates or norms' epsilons differ.

    Args:
        model: Hooked model.
    """
    facts = {
        "weights": model_hash(model),
        "config": model_config(model),
        "tokenizer": tokenizer_fingerprint(model.tokenizer),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def model_config(model: HookedModel) -> dict[str, object]:
    """Return the configuration of a model as JSON values, without the device and the origin."""
    found: dict[str, object] = {"default_prepend_bos": bool(model.cfg.default_prepend_bos)}
    found["tied"] = bool(getattr(model, "tied_embeddings", False))
    generation = generation_config(model)
    if generation is not None:
        found["generation"] = {k: v for k, v in generation.to_dict().items() if k not in WHERE_IT_CAME_FROM}
    if hooked.is_bridge(model):
        hf = model.original_model
        found["hf"] = {k: v for k, v in hf.config.to_dict().items() if k not in WHERE_IT_CAME_FROM}
        found["attention"] = hf.config._attn_implementation
    else:
        fields = vars(model.cfg)
        found["hooked"] = {k: str(v) if k == "dtype" else v for k, v in fields.items() if k not in WHERE_IT_RUNS}
    return found


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """Compute the SHA-256 of a tokenizer: vocabulary, rules, special tokens and chat template. None without one."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    # A call with padding or truncation leaves these two entries in the tokenizer.
    rules = {k: v for k, v in rules.items() if backend is None or k not in ("padding", "truncation")}
    facts = {
        "rules": rules,
        "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "chat": getattr(tokenizer, "chat_template", None),
        "bos": [getattr(tokenizer, name, None) for name in ("add_bos_token", "add_eos_token")],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
