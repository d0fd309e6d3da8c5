"""Models are copied, hashed, saved and loaded without loss."""

import contextlib
import json

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import (
    clone,
    fresh_directory,
    is_checkpoint,
    load_checkpoint,
    model_hash,
    named_weights,
    save_model,
)
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.results import write_json

IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(3))


def frozen():
    model = tiny("llama", seed=5)
    model.blocks[1].mlp.W_in.requires_grad_(False)
    return model


MODELS = {
    "pythia64": lambda: tiny("pythia"),
    "frozen": frozen,
    "tied": lambda: to_hooked(hf_model("qwen2"), tokenizer(prepends_bos=True)),
    "bridge-fused": lambda: to_bridge(hf_model("gpt2"), tokenizer(prepends_bos=True)),
    "bridge-grouped": lambda: to_bridge(hf_model("mistral"), tokenizer()),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def flags(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


def same(a, b):
    with torch.inference_mode():
        assert torch.equal(a(IDS), b(IDS))
    assert model_hash(a) == model_hash(b)
    assert flags(a) == flags(b)
    assert getattr(a, "tied_embeddings", False) == getattr(b, "tied_embeddings", False)
    assert a.cfg.default_prepend_bos == b.cfg.default_prepend_bos
    assert not a.training
    assert not b.training


def test_a_saved_model_is_loaded_without_loss(model, tmp_path):
    assert save_model(model, tmp_path / "m") == tmp_path / "m"
    read = load_checkpoint(tmp_path / "m")
    same(model, read)
    assert type(read) is type(model)
    if model.tokenizer is None:
        assert read.tokenizer is None
    else:
        assert read.tokenizer("who wrote")["input_ids"] == model.tokenizer("who wrote")["input_ids"]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert not [p for p in (tmp_path / "m").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_a_clone_is_equal_and_independent(model):
    model(IDS).sum().backward()
    copied = clone(model)
    same(model, copied)
    assert copied.tokenizer is model.tokenizer
    assert all(p.grad is None for p in copied.parameters())
    before = model_hash(model)
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    assert model_hash(model) == before
    assert model_hash(copied) != before


def test_a_tied_bridge_stays_tied():
    bridge = MODELS["bridge-fused"]()
    hf = clone(bridge).original_model
    assert hf.get_input_embeddings().weight is hf.get_output_embeddings().weight


@pytest.mark.parametrize("kind", ["pythia64", "bridge-grouped"])
def test_the_hash_depends_on_every_weight(kind):
    model = MODELS[kind]()
    seen = {model_hash(model)}
    for tensor in named_weights(model).values():
        with torch.no_grad():
            tensor.view(-1)[-1] += 1e-3
        seen.add(model_hash(model))
    assert len(seen) == 1 + len(named_weights(model))


def test_saving_again_replaces_and_loading_keeps_the_random_state(tmp_path):
    first, second = tiny("gpt2", seed=1), MODELS["bridge-grouped"]()
    save_model(first, tmp_path / "m")
    save_model(second, tmp_path / "m")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    same(load_checkpoint(tmp_path / "m"), second)
    assert torch.equal(torch.rand(3), expected)
    save_model(first, tmp_path / "m")
    torch.manual_seed(7)
    same(load_checkpoint(tmp_path / "m"), first)
    assert torch.equal(torch.rand(3), expected)


def test_a_failed_write_keeps_the_old_directory(tmp_path):
    save_model(tiny(), tmp_path / "m")
    with contextlib.suppress(KeyboardInterrupt), fresh_directory(tmp_path / "m") as directory:
        (directory / "half").write_text("x")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    same(load_checkpoint(tmp_path / "m"), tiny())


def test_errors_name_invalid_paths(tmp_path):
    with pytest.raises(InputError, match="no saved model at"):
        load_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a saved model; give another directory"):
        save_model(tiny(), tmp_path)
    with pytest.raises(InputError, match="exists and is not a saved model"):
        save_model(tiny(), tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_errors_name_broken_files(tmp_path):
    path = save_model(tiny(), tmp_path / "m")
    assert is_checkpoint(path)
    config = path / "config.json"
    record = json.loads(config.read_text())
    config.write_text(json.dumps({**record, "unpact_lens_checkpoint": 99}))
    with pytest.raises(InputError, match="has format 99, this version reads up to 2; upgrade unpact-lens"):
        load_checkpoint(path)
    config.write_text(json.dumps({**record, "dtype": "float32"}))
    with pytest.raises(InputError, match=r"config.json is damaged: it does not match its SHA-256; save"):
        load_checkpoint(path)
    write_json(config, record)
    (path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"model.safetensors is damaged: it does not match its SHA-256"):
        load_checkpoint(path)
    with pytest.raises(InputError, match=r"model.safetensors cannot be read .*; save the model again"):
        load_checkpoint(path, verify=False)
    (path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors is missing; save the model again"):
        load_checkpoint(path)
    with pytest.raises(InputError, match=r"has no model.safetensors; save the model again"):
        load_checkpoint(path, verify=False)
    config.write_text("{")
    with pytest.raises(InputError, match=r"config.json is not valid JSON"):
        load_checkpoint(path)
