"""Low-rank adapters add a matrix of their rank, and merge exactly."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained, world
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.shared_weights import shares_weights
from unpact_lens.models.weights import named_weights
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.adapters import Adapters

SETTINGS = {"lr": 1e-2, "steps": 4, "batch_size": 6, "progress": False}


@pytest.mark.hooked
def test_new_adapter_changes_nothing_and_merging_keeps_its_output(style):
    model = untrained(style)
    tokens = torch.arange(12)[None]
    before = model(tokens).detach()
    names = [n for n, _ in model.named_parameters()]
    adapters = Adapters(model, None, rank=2, alpha=4.0, seed=0)
    assert torch.equal(model(tokens), before)
    with torch.no_grad():
        for _, _, adapter in adapters.places:
            adapter.B.normal_()
    adapted = model(tokens).detach()
    assert not torch.allclose(adapted, before)
    adapters.merge()
    assert torch.equal(model(tokens), adapted)
    assert [n for n, _ in model.named_parameters()] == names
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.hooked
def test_added_matrix_has_the_given_rank_and_scale(style):
    model = untrained(style)
    after = clone(model)
    adapters = Adapters(after, ["blocks.0.attn.*W_*", "blocks.0.mlp.W_in"], rank=2, alpha=6.0, seed=0)
    assert {leaf.lstrip("_") for _, leaf, _ in adapters.places} == {"W_Q", "W_K", "W_V", "W_O", "W_in"}
    with torch.no_grad():
        for _, _, adapter in adapters.places:
            adapter.B.normal_()
    expected = {leaf: 3.0 * a.A @ a.B for _, leaf, a in adapters.places}
    adapters.merge()
    q = (after.blocks[0].attn.W_Q - model.blocks[0].attn.W_Q).detach()
    # Queries of all heads side by side are the matrix that the source model has.
    torch.testing.assert_close(torch.cat(list(q), dim=1), expected["W_Q"].detach(), atol=1e-12, rtol=0)
    o = (after.blocks[0].attn.W_O - model.blocks[0].attn.W_O).detach()
    torch.testing.assert_close(torch.cat(list(o), dim=0), expected["W_O"].detach(), atol=1e-12, rtol=0)
    assert torch.linalg.matrix_rank(torch.cat(list(q), dim=1)) == 2


@pytest.mark.hooked
def test_lora_methods_train_adapters_only():
    model = untrained()
    u = unlearn(model, *world(), method="lora_ga_gdr", **SETTINGS)
    theirs = dict(u.model.named_parameters())
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, theirs[n])}
    assert changed == {n for n in theirs if n.startswith("blocks.") and n.rpartition(".")[2].startswith("W_")}
    delta = (u.model.blocks[1].mlp.W_in - model.blocks[1].mlp.W_in).detach()
    assert torch.linalg.matrix_rank(delta) == 8
    assert (u.method, u.config["rank"]) == ("lora_ga_gdr", 8)
    assert u.history.rows[-1]["forget"] < u.history.rows[0]["forget"]


@pytest.mark.hooked
def test_adapters_on_chosen_modules_and_of_any_rank():
    model = untrained()
    u = unlearn(model, *world(), method="lora_npo", rank=1, modules="blocks.*.mlp.W_out", **SETTINGS)
    delta = (u.model.blocks[2].mlp.W_out - model.blocks[2].mlp.W_out).detach()
    assert torch.linalg.matrix_rank(delta) == 1
    assert torch.equal(u.model.blocks[0].attn.W_Q, model.blocks[0].attn.W_Q)


def test_adapters_work_on_a_bridge():
    model = to_bridge(hf_model("llama"), tokenizer())
    from tests.unlearning.test_trainer import FORGET, RETAIN

    before = model_hash(model)
    u = unlearn(model, FORGET, RETAIN, method="lora_ga_gdr", rank=2, **SETTINGS)
    assert model_hash(model) == before != model_hash(u.model)
    assert set(named_weights(u.model)) == set(named_weights(model))
    assert shares_weights(u.model, model)


def test_adapter_of_a_linear_module_multiplies_its_input():
    """As in a HookedTransformer, whose weights are stored the other way round: A drawn, B zero on the output's side."""
    model = to_bridge(hf_model("llama"), tokenizer())
    adapters = Adapters(model, ["blocks.0.mlp.in.weight"], rank=2, alpha=6.0, seed=0)
    ((module, leaf, adapter),) = adapters.places
    before = getattr(module, leaf).detach().clone()
    assert before.shape == (48, 32)
    assert (adapter.A.shape, adapter.B.shape) == ((32, 2), (2, 48))
    with torch.no_grad():
        adapter.B.normal_()
    expected = before + 3.0 * (adapter.A @ adapter.B).T.detach()
    adapters.merge()
    torch.testing.assert_close(getattr(module, leaf).detach(), expected)


def test_unknown_lora_methods_are_refused():
    with pytest.raises(InputError, match="unknown unlearning method 'lora_gaa'"):
        unlearn(untrained(), *world(), method="lora_gaa", **SETTINGS)
    with pytest.raises(InputError, match="unknown unlearning method 'lora_o3'"):
        unlearn(untrained(), *world(), method="lora_o3", **SETTINGS)


@pytest.mark.parametrize("method", ["sparsity_aware", "whp_inference"])
def test_methods_on_which_adapters_would_do_nothing_refuse_them(method):
    with pytest.raises(InputError, match=f"'lora_{method}': method '{method}' cannot train low-rank adapters: it "):
        unlearn(untrained(), *world(), method=f"lora_{method}", **SETTINGS)
    with pytest.raises(InputError, match=f"rank=4: method '{method}' cannot train low-rank adapters: .*leave rank out"):
        unlearn(untrained(), *world(), method=method, rank=4, **SETTINGS)
