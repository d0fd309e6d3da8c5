"""Both TransformerLens 3.9 and 4 are supported; what 4 lacks is refused by name."""

import inspect
import subprocess
import sys
import warnings

import pytest
import torch

import unpact_lens as ul
from tests.models.families import UNCOMMON, hf_model, save, tokenizer, uncommon_hf_model
from unpact_lens.errors import InputError
from unpact_lens.models import hooked, lens_version
from unpact_lens.models.checkpoint import save_model
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.decoding import cache_difference
from unpact_lens.models.lens_version import DEFAULT_WRAP, HAS_HOOKED, LENS_VERSION, require_hooked


def test_the_default_wrap_is_the_one_that_this_version_has():
    assert LENS_VERSION.startswith("3.") == HAS_HOOKED
    assert inspect.signature(ul.load_model).parameters["wrap"].default == DEFAULT_WRAP
    assert hooked.is_bridge(ul.load_model("builtin")) != HAS_HOOKED
    assert hooked.is_bridge(ul.load_model(hf_model("llama"), tokenizer=tokenizer())) != HAS_HOOKED


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen2", "pythia", "mixtral", "bloom"])
def test_a_cache_is_found_by_the_name_that_newer_transformers_give_it(family):
    bridge = to_bridge(uncommon_hf_model(family) if family in UNCOMMON else hf_model(family), tokenizer())

    def as_since_5_24(module, args, kwargs):
        return args, {"cache" if name in ("past_key_values", "layer_past") else name: v for name, v in kwargs.items()}

    for block in bridge.blocks:
        block.attn.register_forward_pre_hook(as_since_5_24, with_kwargs=True, prepend=True)
    assert cache_difference(bridge) is not None


def test_a_hooked_wrap_names_the_version_that_has_it(monkeypatch, tmp_path):
    monkeypatch.setattr(lens_version, "HAS_HOOKED", False)
    message = (
        r'wrap="hooked" needs HookedTransformer, which TransformerLens 4.0 removed \(installed: [0-9.]+\); '
        r'use wrap="bridge", or install "transformer-lens>=3.9,<4", which has it'
    )
    path, model = save(tmp_path / "model", "gpt2")
    for spec in ("builtin", path, model):
        with pytest.raises(InputError, match=message):
            ul.load_model(spec, wrap="hooked")
    monkeypatch.setattr(lens_version, "HAS_HOOKED", True)
    require_hooked("this")


def test_a_saved_hooked_model_names_the_version_that_reads_it(monkeypatch, tmp_path):
    if not HAS_HOOKED:
        pytest.skip("no HookedTransformer can be saved here")
    path = save_model(ul.load_model("builtin"), tmp_path / "saved")
    monkeypatch.setattr(lens_version, "HAS_HOOKED", False)
    with pytest.raises(InputError, match=r"holds a HookedTransformer; it needs HookedTransformer, .* install"):
        ul.load_model(path, wrap="auto")


@pytest.mark.parametrize(("first", "warns"), [("tqdm.auto", True), ("unpact_lens.models.load", False)])
def test_a_notebook_without_ipywidgets_gets_no_warning_of_tqdm(first, warns):
    code = f"""
import sys, types
app = types.SimpleNamespace(config={{"IPKernelApp": {{}}}})
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython"].get_ipython = lambda: app
sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")
sys.modules["ipywidgets"] = None
import {first}
import tqdm.auto
"""
    made = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert ("IProgress not found" in made.stderr) == warns


def test_a_bridge_that_gets_the_cache_by_its_former_name_does_not_warn(recwarn):
    lens_version.accept_cache(torch.nn.Linear(1, 1))
    warnings.warn(
        "`past_key_values` is deprecated and will be removed. Use `cache` instead.", FutureWarning, stacklevel=1
    )
    assert not recwarn.list
