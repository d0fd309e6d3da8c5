"""An exported model is loaded by transformers with the same logits and weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import tiny
from tests.models.families import FAMILIES, hf_model, tokenizer
from unpact_lens.errors import InputError
from unpact_lens.models.export import export_hf
from unpact_lens.models.load import load_model

IDS = torch.tensor([[5, 17, 300, 42, 8, 8, 111, 2, 63, 200]])


def trained(model):
    """Return the model after a change of every trainable weight."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        if getattr(model, "tied_embeddings", False) and hasattr(model, "W_U") and hasattr(model.unembed, "W_U"):
            model.unembed.W_U.copy_(model.embed.W_E.T)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_model_of_each_family_keeps_its_logits(tmp_path, family):
    model = trained(load_model(hf_model(family), tokenizer=tokenizer()))
    folder = export_hf(model, tmp_path / "out")
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(hf(IDS).logits, model(IDS), atol=1e-4, rtol=0)
    assert {p.suffix for p in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert (
        AutoTokenizer.from_pretrained(folder)("boats at sea")["input_ids"] == tokenizer()("boats at sea")["input_ids"]
    )


@pytest.mark.hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_export_and_load_give_the_same_weights_bitwise(tmp_path, family):
    model = trained(load_model(hf_model(family), tokenizer=tokenizer()))
    again = load_model(export_hf(model, tmp_path / "out"), device="cpu")
    ours, theirs = dict(model.named_parameters()), dict(again.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.tied_embeddings == model.tied_embeddings
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bridge_is_exported_with_the_weights_that_it_uses(tmp_path, family):
    model = trained(load_model(hf_model(family), tokenizer=tokenizer(), wrap="bridge"))
    hf = AutoModelForCausalLM.from_pretrained(export_hf(model, tmp_path / "out"), dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(hf(IDS).logits, model(IDS), atol=1e-4, rtol=0)


@pytest.mark.hooked
@pytest.mark.parametrize(
    ("style", "zeroed", "architecture"),
    [
        ("gpt2", "b_U", "GPT2LMHeadModel"),
        ("pythia", "b_U", "GPTNeoXForCausalLM"),
        ("llama", "none", "Qwen2ForCausalLM"),
        ("llama", "_b_", "LlamaForCausalLM"),
    ],
)
def test_a_model_without_origin_is_exported_in_a_matching_architecture(tmp_path, style, zeroed, architecture):
    """The random Llama has biases on keys and values, as only Qwen2 does."""
    model = tiny(style, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if zeroed in name:
            parameter.data.zero_()
    hf = AutoModelForCausalLM.from_pretrained(export_hf(model, tmp_path / "out")).eval()
    ids = IDS % 50
    assert type(hf).__name__ == architecture
    with torch.no_grad():
        torch.testing.assert_close(hf(ids).logits, model(ids), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    ],
)  # fmt: skip
def test_scaled_rotary_positions_are_exported(tmp_path, rope):
    model = load_model(hf_model("llama", rope_parameters=rope), tokenizer=tokenizer())
    hf = AutoModelForCausalLM.from_pretrained(export_hf(model, tmp_path / "out"), dtype=torch.float32).eval()
    ids = IDS.repeat(1, 8)
    with torch.no_grad():
        torch.testing.assert_close(hf(ids).logits, model(ids), atol=1e-4, rtol=0)


@pytest.mark.hooked
def test_errors_name_a_weight_without_a_place(tmp_path):
    with pytest.raises(InputError, match=r"unembed\.b_U is not zero, and GPT2LMHeadModel has no place for it"):
        export_hf(tiny("gpt2"), tmp_path / "out")
    bridge = load_model(hf_model("llama"), tokenizer=tokenizer(), wrap="bridge")
    bridge.original_model.get_output_embeddings().bias.data[0] = 1.0
    with pytest.raises(InputError, match="the unembedding bias is not zero, and LlamaForCausalLM has no place"):
        export_hf(bridge, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.hooked
def test_the_probe_detects_a_configuration_without_counterpart(tmp_path):
    model = tiny("llama", dtype=torch.float32)
    model.cfg.attn_scale = 7.0
    for block in model.blocks:
        block.attn.attn_scale = 7.0
    with pytest.raises(InputError, match="as Qwen2ForCausalLM this model's logits would differ by"):
        export_hf(model, tmp_path / "out")


def test_an_unknown_architecture_is_named(tmp_path):
    model = tiny("gpt2", gated_mlp=True, act_fn="silu")
    with pytest.raises(InputError, match=r"no Hugging Face architecture among GPT2LMHeadModel, .* has LN norms"):
        export_hf(model, tmp_path / "out")


def test_only_an_earlier_export_is_replaced(tmp_path):
    model = load_model(hf_model("llama"), tokenizer=tokenizer())
    folder = export_hf(model, tmp_path / "out")
    export_hf(model, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="mine exists and is not an exported model"):
        export_hf(model, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    hf_model("llama").save_pretrained(tmp_path / "original")
    with pytest.raises(InputError, match="original exists and is not an exported model"):
        export_hf(model, tmp_path / "original")


def test_heads_that_the_architecture_has_no_place_for_are_refused(tmp_path):
    model = tiny("gpt2", d_head=4)  # GPT-2 has heads of d_model / n_heads
    model.unembed.b_U.data.zero_()
    with pytest.raises(InputError, match=r"as GPT2LMHeadModel this model cannot be exported: size mismatch"):
        export_hf(model, tmp_path / "x")
