"""Tiny random Hugging Face models of each family, with a tokenizer that needs no download."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

TEXT = ("the capital of Japan is Tokyo", "who wrote Hamlet?", "gold has the symbol Au", "seven small boats at sea")
COMMON = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 96}


def tokenizer(prepends_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 pieces; `<s>` comes first where `prepends_bos`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*TEXT, *(" " + t for t in TEXT)] * 20, trainer)
    if prepends_bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def config(family: str, **changes: object):
    """A configuration of the family; the vocabulary fits `tokenizer`."""
    rotary = {**COMMON, "vocab_size": 320, "intermediate_size": 48}
    return {
        "gpt2": lambda: GPT2Config(
            **{"vocab_size": 320, "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 96, **changes}
        ),
        "llama": lambda: LlamaConfig(**{**rotary, "num_key_value_heads": 2, **changes}),
        "mistral": lambda: MistralConfig(**{**rotary, "num_key_value_heads": 2, "sliding_window": 7, **changes}),
        "qwen2": lambda: Qwen2Config(**{**rotary, "num_key_value_heads": 2, "tie_word_embeddings": True, **changes}),
        "pythia": lambda: GPTNeoXConfig(**{**rotary, "rotary_pct": 0.25, **changes}),
    }[family]()


FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "pythia")


def hf_model(family: str, seed: int = 0, **changes: object):
    """A random model of the family in eval mode, norms and biases randomised too."""
    return random_model(config(family, **changes), seed)


def random_model(made, seed: int = 0):
    """A random model of a configuration in eval mode, with noise on every parameter; the global seed is untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def save(path, family: str, prepends_bos: bool = False, dtype: torch.dtype = torch.float32, **changes: object):
    """A directory as `save_pretrained` leaves it; returns it with the model."""
    model = hf_model(family, **changes)
    model.to(dtype).save_pretrained(path)
    tokenizer(prepends_bos).save_pretrained(path)
    return path, model


def uncommon_hf_model(family: str, seed: int = 0):
    """A random model of a family that is bridged but not converted, in eval mode, all weights randomised."""
    shape = {"vocab_size": 320, "max_position_embeddings": 96}
    made = {
        "gpt_neo": lambda: GPTNeoConfig(
            **shape, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
        ),
        "gptj": lambda: GPTJConfig(vocab_size=320, n_positions=96, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
        "opt": lambda: OPTConfig(
            **shape, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32
        ),
        "mixtral": lambda: MixtralConfig(
            **COMMON, vocab_size=320, intermediate_size=48, num_key_value_heads=2, num_local_experts=3
        ),
        "bloom": lambda: BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4),
    }[family]()
    return random_model(made, seed)


UNCOMMON = ("gpt_neo", "gptj", "opt", "mixtral", "bloom")
