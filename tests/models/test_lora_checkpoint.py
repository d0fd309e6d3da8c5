"""Adapters that PEFT saved are merged exactly or refused."""

import json

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from tests.conftest import tiny
from tests.models.families import hf_model, save, tokenizer
from unpact_lens.errors import InputError
from unpact_lens.models import lora_checkpoint as module
from unpact_lens.models.load import load_model

IDS = torch.randint(0, 320, (2, 12), generator=torch.Generator().manual_seed(3))
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"]}


def logits(model):
    with torch.inference_mode():
        out = model(IDS)
    return getattr(out, "logits", out)


def adapted(hf, family, directory):
    """Save a random adapter for the base, and return the PEFT model."""
    peft = get_peft_model(hf, LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS[family], init_lora_weights=False))
    peft.save_pretrained(directory)
    return peft.eval()


@pytest.mark.parametrize("family", list(TARGETS))
@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_a_merged_adapter_gives_the_logits_of_peft(family, wrap, tmp_path):
    base, hf = save(tmp_path / "base", family)
    plain = logits(hf)
    expected = logits(adapted(hf, family, tmp_path / "adapter"))
    model = load_model(base, wrap=wrap, adapter=tmp_path / "adapter")
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    assert (expected - plain).abs().max() > 0.01


def test_merging_adds_scale_times_b_a(tmp_path):
    hf = hf_model("llama").double()
    peft = adapted(hf_model("llama"), "llama", tmp_path)
    layer = peft.base_model.model.model.layers[1].mlp.down_proj
    merged = module.merge_adapter(hf, module.check_adapter(tmp_path)).model.layers[1].mlp.down_proj.weight
    b, a = (m["default"].weight.double() for m in (layer.lora_B, layer.lora_A))
    torch.testing.assert_close(
        merged, hf.model.layers[1].mlp.down_proj.weight + 7 / 3 * b @ a, atol=1e-6, rtol=0
    )  # adapters are stored in fp32


def test_a_live_base_is_not_changed(tmp_path):
    hf = hf_model("llama")
    adapted(hf_model("llama"), "llama", tmp_path)
    before = {n: p.clone() for n, p in hf.named_parameters()}
    merged = load_model(hf, tokenizer=tokenizer(), adapter=tmp_path)
    assert all(torch.equal(p, before[n]) for n, p in hf.named_parameters())
    assert (logits(merged) - logits(hf)).abs().max() > 0.01


@pytest.mark.hooked
def test_errors_name_the_invalid_input(tmp_path, monkeypatch):
    base, hf = save(tmp_path / "base", "llama")
    adapted(hf, "llama", tmp_path / "adapter")
    with pytest.raises(InputError, match=r"adapter .*base has no adapter_config\.json; give the directory that PEFT"):
        load_model(base, adapter=base)
    with pytest.raises(InputError, match=r"adapter= needs a Hugging Face model as its base; a live Hooked"):
        load_model(tiny(), adapter=tmp_path / "adapter")
    with pytest.raises(InputError, match="does not fit this model"):
        load_model(save(tmp_path / "other", "gpt2")[0], adapter=tmp_path / "adapter")
    wider = save(tmp_path / "wider", "llama", intermediate_size=64)[0]
    with pytest.raises(InputError, match="does not fit this model"):
        load_model(wider, adapter=tmp_path / "adapter")
    deeper = save(tmp_path / "deeper", "llama", num_hidden_layers=3)[0]
    with pytest.raises(InputError, match="does not fit this model"):
        load_model(deeper, adapter=tmp_path / "adapter")
    with monkeypatch.context() as patched:
        patched.setattr(module.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"needs the package peft: pip install \"unpact-lens\[lora\]\""):
            load_model(base, adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match=r"pickled weights only \(adapter_model\.bin\), which can run code when read"):
        load_model(base, adapter=tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 3


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_the_directory_of_an_adapter_is_a_model_whose_base_it_names(wrap, tmp_path):
    base, hf = save(tmp_path / "base", "llama")
    hf.name_or_path = hf.config._name_or_path = str(base)
    expected = logits(adapted(hf, "llama", tmp_path / "adapter"))
    torch.testing.assert_close(logits(load_model(tmp_path / "adapter", wrap=wrap)), expected, atol=1e-4, rtol=0)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "../base"}))
    torch.testing.assert_close(logits(load_model(tmp_path / "adapter", wrap=wrap)), expected, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="which is one itself"):
        load_model(tmp_path / "adapter", adapter=tmp_path / "adapter")
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "./nowhere"}))
    with pytest.raises(InputError, match=r"adapter .*, base \./nowhere: no directory"):
        load_model(tmp_path / "adapter")
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(InputError, match=r"names no base model; load the base with adapter='"):
        load_model(tmp_path / "adapter")


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_a_live_peft_model_is_merged_and_not_changed(wrap):
    config = LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS["llama"], init_lora_weights=False)
    peft = get_peft_model(hf_model("llama"), config).eval()
    expected, before = logits(peft), {n: p.clone() for n, p in peft.named_parameters()}
    model = load_model(peft, wrap=wrap, tokenizer=tokenizer())
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    assert all(torch.equal(p, before[n]) for n, p in peft.named_parameters())
    assert torch.equal(logits(peft), expected)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_an_adapter_on_one_use_of_a_tied_embedding_leaves_the_other_use(target, wrap):
    hf = hf_model("qwen2")
    assert hf.config.tie_word_embeddings
    config = LoraConfig(r=3, lora_alpha=7, target_modules=[target, "q_proj"], init_lora_weights=False)
    peft = get_peft_model(hf, config).eval()
    expected = logits(peft)
    model = load_model(peft, wrap=wrap, tokenizer=tokenizer())
    assert model.tied_embeddings is False
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)


def test_a_tied_model_whose_embedding_has_no_adapter_stays_tied():
    config = LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights=False)
    model = load_model(get_peft_model(hf_model("qwen2"), config).eval(), tokenizer=tokenizer())
    assert model.tied_embeddings is True


def test_an_adapter_that_cannot_be_merged_is_refused():
    peft = get_peft_model(hf_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with pytest.raises(InputError, match="the PeftModel cannot become a plain model: ") as caught:
        load_model(peft, tokenizer=tokenizer())
    assert "\n" not in str(caught.value)
