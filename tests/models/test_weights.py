"""Hash, save, equality and export cover every weight of the source model, and a copy is independent, on any family."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import tiny
from tests.models.families import tokenizer
from tests.models.zoo import ZOO, zoo_model
from unpact_lens.errors import InputError
from unpact_lens.models import checkpoint
from unpact_lens.models.checkpoint import clone, load_checkpoint, model_hash, save_model
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.export import export_hf
from unpact_lens.models.independence import reads_memory_of
from unpact_lens.models.lens_version import HAS_HOOKED
from unpact_lens.models.load import load_model
from unpact_lens.models.same_weights import same_weights
from unpact_lens.models.shared_weights import share
from unpact_lens.models.weights import fill_weights, fused_weights, named_weights, source_state

IDS = torch.randint(2, 320, (2, 12), generator=torch.Generator().manual_seed(1))
WRONG_LOGITS = {"cohere", "cohere2", "hunyuan_v1_dense"}
"""Bridges that compute other logits than their source model; loading refuses them."""
UNBRIDGED = {"falcon, new"} if HAS_HOOKED else {"falcon, new", "codegen"}
"""Models that TransformerLens cannot bridge. Its CodeGen bridge does not fit transformers 5.24."""
LEFT_OUT = (
    "mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3", "jamba", "mamba", "stablelm, per-head norms", "apertus"
)  # fmt: skip
"""Architectures of which the bridge's own `state_dict` leaves weights out."""
FUSED = ("gpt2", "bloom", "phi3", "glm4", "mpt", "codegen", "falcon", "gpt_bigcode")
"""Architectures whose bridge uses the parts of a fused matrix."""
QUICK = tuple(name for name in (*LEFT_OUT, *FUSED) if name not in UNBRIDGED)
REST = [pytest.param(name, marks=pytest.mark.slow) for name in ZOO if name not in {*QUICK, *UNBRIDGED}]


def bridge(name, **changes):
    return to_bridge(zoo_model(name, **changes), tokenizer())


def step(model, logits, rate=1e-2):
    """One SGD step of next-token cross-entropy on `IDS`."""
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    trained = [p for p in model.parameters() if p.requires_grad]
    loss.backward()
    torch.optim.SGD(trained, lr=rate).step()
    model.zero_grad()


@pytest.mark.parametrize("name", [*QUICK, *REST])
def test_every_tensor_of_the_source_model_is_in_the_named_weights_or_made_from_them(name):
    source = zoo_model(name)
    model = to_bridge(source, tokenizer())
    state = source_state(model)
    for key, tensor in source.state_dict().items():
        assert torch.equal(state[key], tensor), key
    named = {(t.data_ptr(), t.numel()) for t in named_weights(model).values()}
    joined = {id(fused.weight) for fused in fused_weights(model)}
    for key, tensor in model.original_model.state_dict(keep_vars=True).items():
        assert (tensor.data_ptr(), tensor.numel()) in named or id(tensor) in joined, key


@pytest.mark.parametrize("name", LEFT_OUT)
def test_hash_and_equality_notice_a_change_of_any_weight(name):
    model, other = bridge(name), bridge(name)
    assert same_weights(model, other)
    seen = {model_hash(model)}
    left_out = named_weights(model).keys() - model.state_dict().keys()
    assert left_out
    for key in left_out:
        with torch.no_grad():
            named_weights(model)[key].view(-1)[-1] += 0.5
        seen.add(model_hash(model))
        assert not same_weights(model, other)
    assert len(seen) == 1 + len(left_out)


@pytest.mark.parametrize("name", [*QUICK, *REST])
def test_a_trained_bridge_saved_and_exported_equals_the_same_step_in_transformers(name, tmp_path):
    source = zoo_model(name)
    model = clone(to_bridge(source, tokenizer()))
    step(model, model(IDS, return_type="logits"))
    read = load_checkpoint(save_model(model, tmp_path / "saved"))
    assert model_hash(read) == model_hash(model)
    with torch.inference_mode():
        assert torch.equal(read(IDS, return_type="logits"), model(IDS, return_type="logits"))
    if name in WRONG_LOGITS:
        return
    step(source, source(IDS).logits)
    exported = AutoModelForCausalLM.from_pretrained(export_hf(model, tmp_path / "hf")).state_dict()
    for key, tensor in source.state_dict().items():
        torch.testing.assert_close(exported[key], tensor, atol=1e-6, rtol=0, msg=key)


@pytest.mark.parametrize("name", ["falcon", "falcon, ALiBi", "gpt2", "mixtral"])
def test_training_a_clone_leaves_the_original_as_it_is(name):
    model = bridge(name)
    before, logits = model_hash(model), model(IDS, return_type="logits").detach()
    copied = clone(model)
    for _ in range(2):
        step(copied, copied(IDS, return_type="logits"))
    assert model_hash(model) == before
    assert torch.equal(model(IDS, return_type="logits"), logits)
    assert all(p.grad is None for p in model.parameters())
    assert not torch.equal(copied(IDS, return_type="logits"), logits)


def held(model):
    """Return what every module of a model holds, by its place."""
    return {(name, key): value for name, module in model.named_modules() for key, value in vars(module).items()}


@pytest.mark.parametrize("make", [clone, share])
@pytest.mark.parametrize("name", [*QUICK, *REST])
def test_a_forward_pass_of_a_copy_writes_nothing_into_its_original(name, make):
    model = bridge(name)
    model(IDS, return_type="logits")  # hooks of TransformerLens keep activations
    copied, before = make(model), held(model)
    copied(IDS[:1], return_type="logits")
    after = held(model)
    assert before.keys() == after.keys()
    assert [place for place in before if before[place] is not after[place]] == []


def test_a_copy_that_reads_its_original_is_found_and_refused(monkeypatch):
    model = bridge("falcon")
    assert reads_memory_of(copy.deepcopy(model), model)
    assert not reads_memory_of(clone(model), model)
    shared = tiny()
    twin = clone(shared)
    twin.blocks[1].mlp.W_in.data = shared.blocks[1].mlp.W_in.data
    assert reads_memory_of(twin, shared)
    monkeypatch.setattr(checkpoint, "rebind", lambda copied, memo: None)
    monkeypatch.setattr(checkpoint, "INDEPENDENT", {})
    with pytest.raises(InputError, match="a copy of this FalconForCausalLM would read and train the original's"):
        clone(model)


def test_errors_name_weights_that_do_not_fit():
    model = bridge("mixtral")
    state = {name: tensor.clone() for name, tensor in named_weights(model).items()}
    first = state.pop("blocks.0.mlp.experts.down_proj")
    with pytest.raises(InputError, match=r"weight blocks.0.mlp.experts.down_proj is missing"):
        fill_weights(model, state)
    state["blocks.0.mlp.experts.down_proj"] = first[:1]
    with pytest.raises(InputError, match=r"blocks.0.mlp.experts.down_proj has shape \(1, 32, 48\), expected \(4, "):
        fill_weights(model, state)
    with pytest.raises(InputError, match="weight nonesuch is not part of this model"):
        fill_weights(model, {**named_weights(model), "nonesuch": first})


def test_a_model_that_cannot_be_bridged_is_an_error_of_one_line():
    with pytest.raises(InputError, match="TransformerLens cannot bridge a FalconForCausalLM: split") as caught:
        bridge("falcon, new")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3", "mixtral"])
def test_no_use_of_a_bridge_changes_the_global_random_state(name, tmp_path):
    source = zoo_model(name)
    state = torch.random.get_rng_state()
    model = to_bridge(source, tokenizer())
    save_model(model, tmp_path / "saved")
    for made in (clone(model), share(model), load_checkpoint(tmp_path / "saved")):
        model_hash(made)
    export_hf(model, tmp_path / "hf")
    load_model(tmp_path / "hf", wrap="bridge")
    assert torch.equal(torch.random.get_rng_state(), state)
