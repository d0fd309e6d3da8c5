"""Parts, penalty and norm ball hold in training, whatever the method."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained, world
from tests.unlearning.runs import moved
from unpact_lens.errors import InputError
from unpact_lens.models.load import load_model
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.bounds import part_masks

SHORT = {"method": "ga", "lr": 1e-2, "steps": 4, "batch_size": 4, "progress": False}


def changed(before, after, name):
    return dict(before.named_parameters())[name] != dict(after.named_parameters())[name]


@pytest.mark.hooked
def test_only_named_heads_and_neurons_change_even_with_weight_decay():
    model = untrained("gpt2")
    u = unlearn(model, world()[0], only=["L1H2", "L0N5", "L2.mlp"], weight_decay=0.1, **SHORT)
    prefixes = ("blocks.1.attn.", "blocks.0.mlp.", "blocks.2.mlp.")
    assert all(name.startswith(prefixes) for name in moved(model, u.model))
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        heads = changed(model, u.model, f"blocks.1.attn.{name}").flatten(1).any(1)
        assert heads.tolist() == [False, False, True, False]
    assert changed(model, u.model, "blocks.0.mlp.W_in").any(0).nonzero().tolist() == [[5]]
    assert changed(model, u.model, "blocks.0.mlp.W_out").any(1).nonzero().tolist() == [[5]]
    assert changed(model, u.model, "blocks.2.mlp.W_out").float().mean() > 0.9
    assert u.config["only"] == ("L1H2", "L0N5", "L2.mlp")


def test_a_head_of_grouped_queries_brings_the_keys_and_values_that_it_reads():
    model = untrained("llama", n_key_value_heads=2)
    masks = part_masks(model, ["L0H3"], dict(model.named_parameters()))
    assert masks["blocks.0.attn.W_Q"].flatten(1).any(1).tolist() == [False, False, False, True]
    assert masks["blocks.0.attn._W_K"].flatten(1).any(1).tolist() == [False, True]
    assert not masks["blocks.0.attn.b_O"].any()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_neurons_of_a_bridge_are_those_of_the_hooked_model(family):
    """A `Linear` holds [out, in], GPT-2's `Conv1D` [in, out]."""
    bridge = load_model(hf_model(family), wrap="bridge", tokenizer=tokenizer())
    short = {n.replace("_original_component.", ""): n for n, _ in bridge.named_parameters()}
    masks = part_masks(bridge, ["L1N7"], dict(bridge.named_parameters()))
    taken = {n: m for n, m in masks.items() if m.any()}
    assert len(short) == len(masks)
    hidden, width = bridge.cfg.d_mlp, bridge.cfg.d_model
    for mask in taken.values():
        axis = mask.shape.index(hidden)
        assert mask.any(dim=tuple(i for i in range(mask.ndim) if i != axis)).nonzero().tolist() == [[7]]
        assert int(mask.sum()) in (1, width)
    assert len(taken) == 3  # two matrices and a bias of GPT-2, three matrices of Llama


@pytest.mark.hooked
def test_the_change_of_the_weights_stays_in_the_ball_and_reaches_it():
    model = untrained("gpt2")
    u = unlearn(model, world()[0], radius=0.01, **SHORT)
    pairs = list(zip(model.parameters(), u.model.parameters(), strict=True))
    change = torch.stack([(a - b).detach().square().sum() for a, b in pairs]).sum().sqrt()
    start = torch.stack([a.square().sum() for a, _ in pairs]).sum().sqrt()
    assert float(change / start) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.hooked
def test_the_penalty_adds_its_gradient():
    """With SGD-like steps (no momentum, huge eps) an update is lr/eps times the gradient, so the pull can be solved."""
    model = untrained("gpt2")
    given = {**SHORT, "method": "npo", "beta1": 0.0, "beta2": 0.0, "eps": 1e3, "lr": 1.0, "clip": None}
    free = unlearn(model, world()[0], **{**given, "steps": 1})
    held = unlearn(model, world()[0], anchor=1e3, **{**given, "steps": 1})
    for p, q in zip(free.model.parameters(), held.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)  # the pull is 0 at the start
    forget = world()[0]
    free2, held2 = (unlearn(model, forget, anchor=a, **{**given, "steps": 2, "batch_size": 100}) for a in (0.0, 100.0))
    first = unlearn(model, forget, **{**given, "steps": 1, "batch_size": 100})
    name = "blocks.0.mlp.W_out"
    start, one, two, pulled = (
        dict(m.named_parameters())[name].detach() for m in (model, first.model, free2.model, held2.model)
    )
    expected = two - (100.0 / 1e3) * (one - start)  # AdamW without moments: lr·g/(|g| + eps), |g| ≪ eps
    torch.testing.assert_close(pulled, expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": ["mlp"]}, r"only='mlp' names no part; use embed, unembed, L0.attn"),
        ({"only": "L9.mlp"}, r"only='L9.mlp': the model has layers 0 to 2"),
        ({"only": ["L0H7"]}, r"only='L0H7': the model has heads 0 to 3"),
        ({"only": ["L0N999"]}, r"only='L0N999': the model has neurons 0 to"),
        ({"only": ["L0.attn"], "modules": "blocks.0.mlp"}, r"only='L0.attn' holds no weight that is trained"),
        ({"only": ["L0.mlp"], "rank": 2}, r"rank=2 trains adapters, and only=.*leave one of them out"),
        ({"radius": 0}, r"radius=0; give a finite number above 0, or None"),
        ({"anchor": -1}, r"anchor=-1; give a finite number of at least 0"),
    ],
)
def test_wrong_bounds_are_refused_by_name(given, message):
    with pytest.raises(InputError, match=message):
        unlearn(untrained("gpt2"), world()[0], **SHORT, **given)


def test_heads_of_a_bridge_are_refused():
    bridge = load_model(hf_model("llama"), wrap="bridge", tokenizer=tokenizer())
    with pytest.raises(InputError, match=r'only=\'L0H1\': .* load the model with wrap="hooked", or use L0.attn'):
        part_masks(bridge, ["L0H1"], dict(bridge.named_parameters()))
