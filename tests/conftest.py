"""Random-weight models of each family, for exact tests."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", message=".*HookedTransformer is deprecated.*")

import pytest  # noqa: E402
import torch  # noqa: E402
from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: E402

torch.set_num_threads(1)  # tests run side by side; more threads than cores slow a step tenfold

STYLES = ("gpt2", "llama", "pythia")


def tiny(style: str = "gpt2", *, dtype: torch.dtype = torch.float64, seed: int = 0, **overrides: object):
    """A small `HookedTransformer` with random weights, norms and biases, no tokenizer; ids go from 0 to 49.

    gpt2: LayerNorm, learned positions, biases. llama: RMSNorm, rotary, gated MLP, grouped queries, no biases.
    pythia: LayerNorm, rotary on part of each head, parallel attention and MLP, biases.
    """
    common: dict[str, object] = {
        "n_layers": 3, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 48, "n_ctx": 400, "d_vocab": 50,
        "seed": seed, "device": "cpu", "dtype": dtype, "default_prepend_bos": False,
    }  # fmt: skip
    shape: dict[str, object] = {
        "gpt2": {"normalization_type": "LN", "act_fn": "gelu_new", "positional_embedding_type": "standard"},
        "llama": {
            "normalization_type": "RMS", "act_fn": "silu", "gated_mlp": True, "final_rms": True,
            "positional_embedding_type": "rotary", "rotary_dim": 8, "n_key_value_heads": 2,
        },
        "pythia": {
            "normalization_type": "LN", "act_fn": "gelu", "positional_embedding_type": "rotary", "rotary_dim": 4,
            "parallel_attn_mlp": True,
        },
    }[style]  # fmt: skip
    model = HookedTransformer(HookedTransformerConfig(**{**common, **shape, **overrides}))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype)
            if name.split(".")[-1].startswith("b") and style == "llama":
                continue
            weight.copy_(1 + 0.3 * noise if name.endswith(".w") else 0.3 * noise)
    return model.eval()


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model64(style: str) -> HookedTransformer:
    return tiny(style)


@pytest.fixture
def model32(style: str) -> HookedTransformer:
    return tiny(style, dtype=torch.float32)
