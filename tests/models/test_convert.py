"""A converted model has the logits of the original for every supported configuration; others are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import FAMILIES, hf_model, tokenizer
from unpact_lens.attribution import attribute
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import load_checkpoint, save_model
from unpact_lens.models.convert import attach_tokenizer, fill, to_bridge, to_hooked
from unpact_lens.models.hooked_families import check_supported
from unpact_lens.models.ready import check_sound

IDS = torch.randint(0, 320, (2, 60), generator=torch.Generator().manual_seed(3))
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def logits(model):
    with torch.inference_mode():
        out = model(IDS)
    return getattr(out, "logits", out)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_wraps_give_the_logits_of_the_original(family):
    hf = hf_model(family)
    before = {name: p.clone() for name, p in hf.named_parameters()}
    expected = logits(hf)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits(to_hooked(hf, tokenizer())), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits(to_bridge(hf, tokenizer())), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits(hf), expected, atol=0, rtol=0)
    assert all(torch.equal(p, before[name]) for name, p in hf.named_parameters())


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"head_dim": 16}),
        ("llama", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}}),
        ("mistral", {"sliding_window": None, "num_key_value_heads": 4}),
        ("mistral", {"sliding_window": 3, "rms_norm_eps": 0.1}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        ("qwen2", {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
        ("pythia", {"use_parallel_residual": False, "layer_norm_eps": 0.1}),
        ("pythia", {"rotary_pct": 1.0, "hidden_act": "gelu_new", "tie_word_embeddings": True}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40, "tie_word_embeddings": False}),
        ("gpt2", {"scale_attn_weights": False, "activation_function": "relu", "layer_norm_epsilon": 0.1}),
    ],
)
def test_configurations_are_converted_with_equal_logits(family, changes):
    hf = hf_model(family, **changes)
    torch.testing.assert_close(logits(to_hooked(hf, None)), logits(hf), atol=1e-4, rtol=0)


@pytest.mark.hooked
@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"attention_bias": True}, 'llama model with attention biases .* wrap="bridge"'),
        ("llama", {"mlp_bias": True}, "llama model with MLP biases"),
        ("pythia", {"attention_bias": False}, "gpt_neox model with attention without biases"),
        ("gpt2", {"add_cross_attention": True}, "gpt2 model with cross-attention"),
        ("gpt2", {"activation_function": "tanh"}, "the activation 'tanh'"),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0,
                                 "original_max_position_embeddings": 48}},
            "rotary positions of type 'yarn'",
        ),
    ],
)  # fmt: skip
def test_unsupported_configurations_are_refused(family, changes, message):
    with pytest.raises(InputError, match=message):
        to_hooked(hf_model(family, **changes), None)


@pytest.mark.parametrize(
    ("family", "frozen"),
    [
        ("gpt2", {"b_U"}),
        ("pythia", {"b_U"}),
        ("llama", {"b_Q", "_b_K", "_b_V", "b_O", "b_in", "b_out", "b_U"}),
        ("qwen2", {"b_O", "b_in", "b_out", "b_U"}),
    ],
)
def test_weights_that_the_architecture_lacks_are_zero_and_frozen(family, frozen):
    model = to_hooked(hf_model(family), None)
    still = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[-1] for name in still} == frozen
    assert all(not p.any() for p in still.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bridge_trains_the_weights_of_the_original_and_no_others(family):
    hf = hf_model(family)
    bridge = to_bridge(hf, tokenizer())
    trained = [p for p in bridge.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in hf.parameters())
    bridge(IDS).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in trained)


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("qwen2", True), ("llama", False)])
def test_tied_embeddings_are_recorded(family, tied):
    hf = hf_model(family)
    hooked = to_hooked(hf, None)
    assert hooked.tied_embeddings is tied
    assert torch.equal(hooked.W_U, hooked.W_E.T) is tied
    assert to_bridge(hf, tokenizer()).tied_embeddings is tied


@pytest.mark.parametrize("prepends", [True, False])
def test_bos_follows_the_tokenizer(prepends):
    given = tokenizer(prepends)
    given.padding_side = "left"
    for model in (to_hooked(hf_model("gpt2"), given), to_bridge(hf_model("gpt2"), given)):
        assert model.cfg.default_prepend_bos is prepends
        assert model.to_tokens("seven small").tolist() == [given("seven small")["input_ids"]]
        assert model.tokenizer.padding_side == "right"
        assert model.cfg.d_vocab == 320
    assert given.padding_side == "left"
    assert given.pad_token is None


def test_a_model_without_tokenizer_takes_ids():
    model = tiny()
    attach_tokenizer(model, None)
    assert model.tokenizer is None


def test_dtype_and_device_are_as_given():
    model = to_hooked(hf_model("gpt2"), None, dtype=torch.float64, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model.cfg.dtype == torch.float64


def test_dropout_is_off():
    hf = hf_model("gpt2", resid_pdrop=0.5).train()
    assert torch.equal(logits(to_hooked(hf, None)), logits(to_hooked(hf, None)))
    bridge = to_bridge(hf, tokenizer())
    assert torch.equal(logits(bridge), logits(bridge))
    assert hf.training


@pytest.mark.hooked
def test_errors_name_broken_and_unknown_models():
    hf = hf_model("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    for convert in (to_hooked, to_bridge):
        with pytest.raises(InputError, match=r"weight transformer.h.1.mlp.c_fc.weight holds NaN or infinity"):
            convert(hf, tokenizer())
    with pytest.raises(InputError, match=r'StableLmForCausalLM cannot become .* GPT2LMHeadModel.* wrap="bridge"'):
        check_supported("StableLmForCausalLM")
    with pytest.raises(InputError, match="weight a holds NaN or infinity"):
        check_sound([("a", torch.tensor([1.0, torch.inf]))])


@pytest.mark.hooked
def test_fill_copies_all_weights_or_none():
    model = tiny()
    state = {name: p.detach() + 1 for name, p in model.named_parameters()}
    before = model.W_E.detach().clone()
    for wrong, message in (
        ({k: v for k, v in state.items() if k != "ln_final.w"}, "weight ln_final.w is missing"),
        ({**state, "extra": before}, "weight extra is not part of this model"),
        ({**state, "embed.W_E": before[:-1]}, r"weight embed.W_E has shape \(49, 32\), expected \(50, 32\)"),
    ):
        with pytest.raises(InputError, match=message):
            fill(model, wrong)
        assert torch.equal(model.W_E, before)
    fill(model, state)
    assert torch.equal(model.W_E, before + 1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bridge_without_a_tokenizer_takes_ids(family, tmp_path):
    hf = hf_model(family)
    bridge = to_bridge(hf, None)
    assert bridge.tokenizer is None
    assert not bridge.cfg.default_prepend_bos
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(bridge(ids), hf(ids).logits, atol=1e-5, rtol=0)
    read = load_checkpoint(save_model(bridge, tmp_path / "saved"))
    assert torch.equal(attribute(read, [5, 6, 7], [8]).scores, attribute(bridge, [5, 6, 7], [8]).scores)


MULTIMODAL = """
import subprocess
started = []
subprocess.check_call = lambda *command, **_: started.append(command)
from transformers import AutoModelForCausalLM
from tests.models.families import tokenizer
from tests.models.multimodal import gemma3_config
from unpact_lens.models.convert import to_bridge
for _ in range(2):
    bridge = to_bridge(AutoModelForCausalLM.from_config(gemma3_config()).eval(), tokenizer())
    assert bridge.processor is None, bridge.processor
assert not started, started
"""


def test_a_multimodal_model_is_bridged_without_the_hub_and_without_installing_anything():
    """In a new process: the first access to a processor class changes what the module `transformers` is."""
    subprocess.run([sys.executable, "-c", MULTIMODAL], check=True, cwd=Path(__file__).parents[2])
