"""Random-weight models of each family, for exact tests."""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Generator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", message=".*HookedTransformer is deprecated.*")

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig  # noqa: E402

from unpact_lens.errors import InputError  # noqa: E402
from unpact_lens.models.checkpoint import clone  # noqa: E402
from unpact_lens.models.convert import to_bridge  # noqa: E402
from unpact_lens.models.lens_version import (  # noqa: E402
    HAS_HOOKED,
    LENS_VERSION,
    HookedTransformer,
    HookedTransformerConfig,
)
from unpact_lens.registry import Registry  # noqa: E402

NEEDS_HOOKED = f"needs HookedTransformer, which TransformerLens {LENS_VERSION} lacks"

torch.set_num_threads(1)  # tests run side by side; more threads than cores slow a step tenfold

# A suite that `nohup` or a shell's `&` started inherits ignored signals, which the commands rightly keep.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

STYLES = ("gpt2", "llama", "pythia")


def endless(model: Any) -> Any:
    """A copy of a hooked model with the logit of its end token lowered by 30."""
    copy = clone(model)
    with torch.no_grad():
        copy.unembed.b_U[copy.tokenizer.eos_token_id] -= 30
    return copy


def tiny(style: str = "gpt2", *, dtype: torch.dtype = torch.float64, seed: int = 0, **overrides: object):
    """A small `HookedTransformer` with random weights, norms and biases, no tokenizer; ids go from 0 to 49.

    Where TransformerLens has none, it is a bridge of the same shape, or the test is skipped if there is no such bridge.

    gpt2: LayerNorm, learned positions, biases. llama: RMSNorm, rotary, gated MLP, grouped queries, no biases.
    pythia: LayerNorm, rotary on part of each head, parallel attention and MLP, biases.
    """
    if not HAS_HOOKED:
        return tiny_bridge(style, dtype, seed, overrides)
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


def tiny_bridge(style: str, dtype: torch.dtype, seed: int, overrides: dict[str, object]):
    """A bridge with random weights, norms and biases, no tokenizer, of the shape that `tiny` has."""
    size: dict[str, object] = {
        "n_layers": 3, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 48, "n_ctx": 400, "d_vocab": 50,
        "n_key_value_heads": 2 if style == "llama" else 4,
    }  # fmt: skip
    beyond = set(overrides) - set(size)
    size |= overrides
    if style == "llama" and dtype == torch.float64:
        pytest.skip(f"{NEEDS_HOOKED} (transformers computes Llama in fp32 only)", allow_module_level=True)
    if beyond or size["d_head"] * size["n_heads"] != size["d_model"]:
        pytest.skip(f"{NEEDS_HOOKED} ({', '.join(sorted(beyond)) or 'd_head'})", allow_module_level=True)
    common = {
        "num_hidden_layers": size["n_layers"], "hidden_size": size["d_model"], "num_attention_heads": size["n_heads"],
        "intermediate_size": size["d_mlp"], "max_position_embeddings": size["n_ctx"], "vocab_size": size["d_vocab"],
        "tie_word_embeddings": False,
    }  # fmt: skip
    config = {
        "gpt2": lambda: GPT2Config(
            n_layer=size["n_layers"], n_embd=size["d_model"], n_head=size["n_heads"], n_inner=size["d_mlp"],
            n_positions=size["n_ctx"], vocab_size=size["d_vocab"], tie_word_embeddings=False,
        ),
        "llama": lambda: LlamaConfig(**common, num_key_value_heads=size["n_key_value_heads"]),
        "pythia": lambda: GPTNeoXConfig(**common, rotary_pct=0.5),
    }[style]()  # fmt: skip
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.dtype)
            scale = weight.ndim == 1 and name.endswith("weight")  # of a norm
            weight.copy_(1 + 0.3 * noise if scale else 0.3 * noise)
    return to_bridge(model, None, dtype=dtype, own=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of `HookedTransformer` where TransformerLens has none."""
    if not HAS_HOOKED:
        for item in items:
            if item.get_closest_marker("hooked"):
                item.add_marker(pytest.mark.skip(reason=NEEDS_HOOKED))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, Any, Any]:
    """Count a test that asked for a `HookedTransformer` as skipped where TransformerLens has none.

    `tests/models/test_lens_version.py` checks that only an explicit wish is refused.
    """
    report = yield
    error = call.excinfo
    if not HAS_HOOKED and error and error.errisinstance(InputError) and "needs HookedTransformer" in str(error.value):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {NEEDS_HOOKED}")
    return report


@pytest.fixture(scope="session")
def registries() -> list[Registry[Any]]:
    """All registries of the package, each with the entries that the package itself registers."""
    found = [thing for thing in gc.get_objects() if type(thing) is Registry]
    for registry in found:
        len(registry)  # imports the package that registers the entries
    return found


@pytest.fixture(autouse=True)
def registered_again(registries: list[Registry[Any]]) -> Generator[None, None, None]:
    """Forget after each test which methods, metrics, probes and data sets it registered."""
    before = [(dict(registry._entries), set(registry._replaced)) for registry in registries]
    yield
    for registry, (entries, replaced) in zip(registries, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)
        registry._replaced.clear()
        registry._replaced.update(replaced)


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model64(style: str) -> HookedTransformer:
    return tiny(style)


@pytest.fixture
def model32(style: str) -> HookedTransformer:
    return tiny(style, dtype=torch.float32)
