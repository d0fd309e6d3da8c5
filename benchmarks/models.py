"""Make the random models that all contestants of a benchmark use, and a tokenizer with one word per id."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import Any

import torch

SHAPES = ("gpt2-small", "gpt2-quarter", "gpt2-medium", "smollm2", "tiny")
"""Shapes with random weights: 124, 60, 355, 135 and 0.1 million parameters."""


@functools.cache
def hf_model(shape: str, attention: str = "sdpa") -> Any:
    """Make a Hugging Face model with random weights (seed 0), in fp32 and eval mode; once in each process.

    Args:
        shape: One of `SHAPES`, or a directory that `save_pretrained` wrote.
        attention: Attention implementation of transformers.
    """
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    if shape not in SHAPES:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            shape, dtype=torch.float32, attn_implementation=attention, use_safetensors=True
        )
        return model.eval().requires_grad_(False)
    configs = {
        "gpt2-small": lambda: transformers.GPT2Config(),
        "gpt2-quarter": lambda: transformers.GPT2Config(n_layer=3),
        "gpt2-medium": lambda: transformers.GPT2Config(n_layer=24, n_embd=1024, n_head=16),
        "smollm2": lambda: transformers.LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
        ),
        "tiny": lambda: transformers.GPT2Config(vocab_size=500, n_embd=64, n_layer=2, n_head=4),
    }  # fmt: skip
    torch.manual_seed(0)
    config = configs[shape]()
    config._attn_implementation = attention
    return (
        transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        .eval()
        .requires_grad_(False)
    )


def tokenizer(vocabulary: int) -> Any:
    """Make a tokenizer with one word per id (see `word`); deleting a word from a text deletes one id."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word(i): i for i in range(vocabulary)}, unk_token=word(0)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=word(0), eos_token=word(1), pad_token=word(0))


def word(i: int) -> str:
    """Return the text of an id. All are equally long, so that no special token is the prefix of another word."""
    return f"w{i:05d}"


def bridge(shape: str) -> Any:
    """Make a `TransformerBridge` with the same weights."""
    from unpact_lens.models.convert import to_bridge

    hf = hf_model(shape, "eager")
    wrapped = to_bridge(hf, tokenizer(hf.config.vocab_size))
    wrapped.cfg.default_prepend_bos = False
    return wrapped


def random_ids(count: int, vocabulary: int, seed: int = 1) -> list[int]:
    """Draw ids that are not special tokens."""
    return torch.randint(2, vocabulary, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
