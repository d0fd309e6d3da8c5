"""`load_model` loads models of every kind, and its errors say in one line what to do."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge

from tests.conftest import tiny
from tests.models.families import FAMILIES, hf_model, save, tokenizer
from tests.models.zoo import zoo_model
from unpact_lens.errors import InputError
from unpact_lens.models import load
from unpact_lens.models.checkpoint import model_hash, save_model
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.lens_version import HookedTransformer
from unpact_lens.models.load import load_model

IDS = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(3))


def logits(model):
    with torch.inference_mode():
        out = model(IDS)
    return getattr(out, "logits", out)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_a_directory_gives_the_logits_of_hugging_face(family, wrap, tmp_path):
    path, hf = save(tmp_path / "some-model", family, prepends_bos=True)
    model = load_model(path, wrap=wrap)
    torch.testing.assert_close(logits(model), logits(hf), atol=1e-4, rtol=0)
    assert type(model).__name__ == {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[wrap]
    assert model.cfg.default_prepend_bos is True
    assert model.tied_embeddings is (family in ("gpt2", "qwen2"))
    assert not model.training


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
@pytest.mark.parametrize("name", ["llama-7b", "gemma-2-pythia", "Qwen2"])
def test_the_name_of_a_directory_does_not_matter(name, wrap, tmp_path):
    path, hf = save(tmp_path / name, "gpt2")
    torch.testing.assert_close(logits(load_model(str(path), wrap=wrap)), logits(hf), atol=1e-4, rtol=0)


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_a_live_hugging_face_model_is_copied(wrap):
    hf = hf_model("llama", hidden_act="gelu").train()
    model = load_model(hf, wrap=wrap, tokenizer=tokenizer())
    torch.testing.assert_close(logits(model), logits(hf), atol=1e-4, rtol=0)
    assert hf.training
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert all(p.any() for p in hf.parameters())


def test_weights_are_fp32_unless_asked(tmp_path):
    path, _ = save(tmp_path / "m", "gpt2", dtype=torch.bfloat16)
    assert load_model(path).cfg.dtype == torch.float32
    model = load_model(path, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_saved_models_are_loaded(tmp_path, capsys):
    for name, model in (("a", tiny("llama")), ("b", to_bridge(hf_model("gpt2"), tokenizer()))):
        path = save_model(model, tmp_path / name)
        assert model_hash(load_model(path, device="cpu")) == model_hash(model)
        load_model(path, device="cpu", dtype=torch.float64)
    assert capsys.readouterr().out == "", "a command with --json prints nothing else"
    with pytest.raises(InputError, match=r'a holds a HookedTransformer; drop wrap="bridge"'):
        load_model(tmp_path / "a", wrap="bridge")


@pytest.mark.parametrize("name", ["builtin", "builtin-retrain"])
def test_embedded_models_are_loaded_by_name(name):
    for wrap in ("hooked", "bridge"):
        model = load_model(name, wrap=wrap)
        assert model.tokenizer is not None
        assert not model.training


def test_a_live_hooked_model_is_returned_in_eval_mode():
    for model in (tiny("gpt2"), to_bridge(hf_model("gpt2"), tokenizer())):
        model.train()
        assert load_model(model) is model
        assert not model.training


@pytest.mark.hooked
def test_a_live_hooked_model_is_checked():
    broken = tiny()
    broken.W_E.data[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"weight embed.W_E holds NaN or infinity"):
        load_model(broken)
    with pytest.raises(InputError, match="attention_dir='bidirectional': only causal"):
        load_model(tiny(attention_dir="bidirectional"))
    with pytest.raises(InputError, match="cannot be turned into a bridge; pass the Hugging Face model"):
        load_model(tiny(), wrap="bridge")
    with pytest.warns(UserWarning, match="norms folded into the weights"):
        load_model(tiny(normalization_type="LNPre"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_model(tiny())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtn", r"unknown model 'builtn'; did you mean 'builtin'( or 'builtin-retrain')?\?"),
        ("smollm", r"unknown model 'smollm'; did you mean 'smollm2'\?"),
        ("./nowhere", r"no directory './nowhere'; give one that exists, or a name: 'builtin', 'builtin-retrain', "),
        ("/no/where", "no directory '/no/where'"),
        ("bad name!", "unknown model 'bad name!': no directory and no hub id; known names are 'builtin'"),
        (
            "nobody/no-such-model",
            "'nobody/no-such-model' is no directory and not in the local hub cache, and the hub cannot be asked "
            r"\(HF_HUB_OFFLINE is set\); put its config.json",
        ),
        (3, "a int is not a model; give a name"),
    ],
)
def test_errors_for_unknown_names_are_one_line(spec, message, monkeypatch):
    monkeypatch.setattr(load.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_a_hub_id_is_read_from_the_local_cache(wrap, tmp_path, monkeypatch):
    repository = tmp_path / "models--nobody--some-model"
    _, hf = save(repository / "snapshots" / "abc123", "pythia")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    monkeypatch.setattr(load.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(load.constants, "HF_HUB_OFFLINE", True)
    torch.testing.assert_close(logits(load_model("nobody/some-model", wrap=wrap)), logits(hf), atol=1e-4, rtol=0)


def test_the_error_without_network_is_one_line(monkeypatch):
    class NoRoute(Exception):
        pass

    def ask(*args, **kwargs):
        raise NoRoute("[Errno -2] Name or service not known\nmore")

    monkeypatch.setattr(load.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(load.HfApi, "model_info", ask)
    with pytest.raises(InputError, match=r"the hub cannot be asked \(\[Errno -2\] Name or service not known\)"):
        load_model("nobody/no-such-model")


def test_errors_name_invalid_options(tmp_path):
    with pytest.raises(InputError, match="wrap='hook'; give 'hooked', 'bridge', 'auto'"):
        load_model("builtin", wrap="hook")
    with pytest.raises(InputError, match="tokenizer= is for a live Hugging Face model"):
        load_model("builtin", tokenizer=tokenizer())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"is a file; give the directory that holds config.json"):
        load_model(tmp_path / "file")


@pytest.fixture
def directory(tmp_path):
    return save(tmp_path / "m", "gpt2")[0]


def test_a_directory_without_config(directory):
    (directory / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config.json; give the directory that save_pretrained\(\) wrote"):
        load_model(directory)


def test_a_directory_without_tokenizer(directory):
    for file in directory.glob("*token*"):
        file.unlink()
    with pytest.raises(InputError, match=r"has no tokenizer \(tokenizer.json or tokenizer_config.json\)"):
        load_model(directory)


def test_a_directory_with_pickled_weights_only(directory):
    shutil.move(directory / "model.safetensors", directory / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled weights only \(pytorch_model.bin\), which can run code when read"):
        load_model(directory)


def test_a_directory_without_weights(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no \*.safetensors weights"):
        load_model(directory)


def test_a_directory_with_broken_weights(directory):
    (directory / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"cannot load .*m: ") as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_an_error(directory):
    weights = load_file(directory / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.bias"]
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"its files lack the weight transformer.h.1.mlp.c_fc.bias"):
        load_model(directory)


def test_errors_name_nan_weights(tmp_path):
    path, hf = save(tmp_path / "m", "llama")
    with torch.no_grad():
        hf.model.norm.weight[3] = float("nan")
    hf.save_pretrained(path)
    with pytest.raises(InputError, match=r"weight model.norm.weight holds NaN"):
        load_model(path)


@pytest.mark.hooked
def test_an_unsupported_architecture_can_be_bridged(tmp_path):
    hf = zoo_model("stablelm")
    hf.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    message = r"StableLmForCausalLM cannot become a HookedTransformer; supported are GPT2LMHeadModel, .*wrap=\"bridge\""
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)
    for wrap in ("bridge", "auto"):
        model = load_model(tmp_path, wrap=wrap)
        assert isinstance(model, TransformerBridge)
        torch.testing.assert_close(logits(model), logits(hf), atol=1e-4, rtol=0)
    assert isinstance(load_model(hf_model("gpt2"), wrap="auto"), HookedTransformer)


def test_a_config_of_an_unknown_type_is_an_error_of_one_line(directory):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "nonesuch"}))
    with pytest.raises(InputError, match="cannot load") as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)
