"""The model interface gives the same, correct values for both kinds of model."""

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.convert import to_bridge, to_hooked

IDS = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(3))
MODELS = {
    "gpt2": lambda: tiny("gpt2", dtype=torch.float32),
    "llama": lambda: tiny("llama", dtype=torch.float32),
    "pythia": lambda: tiny("pythia", dtype=torch.float32),
    "soft-cap": lambda: tiny("llama", dtype=torch.float32, output_logits_soft_cap=2.0),
    "bridge-gpt2": lambda: to_bridge(hf_model("gpt2"), tokenizer()),
    "bridge-qwen2": lambda: to_bridge(hf_model("qwen2"), tokenizer()),
    "bridge-pythia": lambda: to_bridge(hf_model("pythia"), tokenizer()),
}


@pytest.fixture(params=MODELS)
def model(request):
    with torch.inference_mode():
        yield MODELS[request.param]()


def test_both_kinds_satisfy_the_protocol(model):
    assert isinstance(model, hooked.HookedModel)
    assert hooked.is_bridge(model) == (type(model).__name__ == "TransformerBridge")
    assert hooked.device_of(model).type == "cpu"


def test_logits_at_positions_equal_those_of_the_full_forward_pass(model):
    positions = torch.tensor([[10, 0], [3, 3], [7, 9]])
    expected = model(IDS).gather(1, positions[..., None].expand(-1, -1, model.cfg.d_vocab))
    torch.testing.assert_close(hooked.logits_at(model, IDS, positions), expected, atol=1e-5, rtol=0)


def test_right_padding_does_not_change_logits(model):
    padded = torch.cat([IDS, torch.zeros(3, 4, dtype=torch.long)], dim=1)
    positions = torch.arange(11).expand(3, -1)
    torch.testing.assert_close(hooked.logits_at(model, padded, positions), model(IDS), atol=1e-5, rtol=0)


def test_the_final_residual_unembeds_to_the_logits(model):
    resid = hooked.final_residual(model, IDS)
    assert resid.shape == (3, 11, model.cfg.d_model)
    torch.testing.assert_close(hooked.unembed(model, resid), model(IDS), atol=1e-5, rtol=0)
    torch.testing.assert_close(hooked.unembed(model, resid[1, 4]), model(IDS)[1, 4], atol=1e-5, rtol=0)


def test_project_equals_the_models_unembedding(model):
    normed = torch.randn(2, 3, model.cfg.d_model, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(hooked.project(model, normed), model.unembed(normed), atol=1e-5, rtol=0)


def test_hooks_after_the_last_block_are_called_and_change_the_logits(model):
    """The readout is computed here, and hooks on `ln_final` and the unembedding still act on it."""
    name = "unembed.hook_in"
    seen = []

    def double(act, hook):
        seen.append(act.shape[1])
        return 2 * act

    positions = torch.tensor([[10], [3], [7]])
    found = hooked.logits_at(model, IDS, positions, [(name, double)])
    expected = model.run_with_hooks(IDS, fwd_hooks=[(name, lambda act, hook: 2 * act)])
    expected = expected.gather(1, positions[..., None].expand(-1, -1, model.cfg.d_vocab))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(seen) == 1
    # The hook is removed afterwards.
    hooked.logits_at(model, IDS, positions)
    assert len(seen) == 1


def test_collected_activations_equal_those_of_run_with_cache(model):
    names = ["blocks.0.attn.hook_z", hooked.final_hook(model), "ln_final.hook_scale", "unembed.hook_in"]
    _, cache = model.run_with_cache(IDS)
    taken = hooked.collect(model, IDS, names)
    assert list(taken) == names
    for name in names:
        torch.testing.assert_close(taken[name], cache[name], atol=0, rtol=0)
    last = hooked.collect(model, IDS, names[1:], then=lambda act: act[:, -1])
    torch.testing.assert_close(last[names[1]], cache[names[1]][:, -1], atol=0, rtol=0)


def test_both_kinds_of_model_have_equal_activations():
    hf = hf_model("qwen2")
    transformer, bridge = to_hooked(hf, tokenizer()), to_bridge(hf, tokenizer())
    names = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.attn.hook_v", hooked.final_hook(transformer)]
    ours, theirs = hooked.collect(transformer, IDS, names), hooked.collect(bridge, IDS, names)
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name].reshape(ours[name].shape), atol=1e-4, rtol=0)


def test_collect_unembeds_one_position_on_a_bridge():
    bridge, seen = to_bridge(hf_model("qwen2"), tokenizer()), []
    handle = bridge.unembed.register_forward_hook(lambda module, given, made: seen.append(made.shape[1]))
    hooked.collect(bridge, IDS, ["blocks.0.hook_resid_post", hooked.final_hook(bridge)])
    hooked.collect(bridge, IDS, ["unembed.hook_in"])
    handle.remove()
    assert seen == [1, IDS.shape[1]]


def test_hooks_run_as_in_the_model_and_are_removed_afterwards(model):
    name, doubled = "blocks.0.hook_resid_post", lambda act, hook: 2 * act
    seen = []
    own = hooked.hook_points(model)[name]
    own.add_hook(lambda act, hook: seen.append(hook.name))  # another hook, which must stay
    found = hooked.run_with_hooks(model, IDS, [(name, doubled)], return_type="logits")
    assert len(seen) == 1
    torch.testing.assert_close(found, model.run_with_hooks(IDS, fwd_hooks=[(name, doubled)]), atol=0, rtol=0)

    def broken(act, hook):
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        hooked.run_with_hooks(model, IDS, [(name, broken)])
    plain = hooked.run_with_hooks(model, IDS, return_type="logits")
    own.remove_hooks()
    torch.testing.assert_close(plain, model(IDS), atol=0, rtol=0)
    assert model.context_level == 0


def test_hook_names_of_a_bridge_are_resolved_once_and_again_for_a_copy(monkeypatch):
    bridge = to_bridge(hf_model("qwen2"), tokenizer())
    points = hooked.hook_points(bridge)
    assert points == bridge.hook_dict
    monkeypatch.setattr(type(bridge), "hook_dict", property(lambda model: pytest.fail("resolved again")))
    assert hooked.hook_points(bridge) is points
    hooked.run_with_hooks(bridge, IDS, [("blocks.0.hook_resid_post", lambda act, hook: None)])
    copied = clone(bridge)
    theirs = hooked.hook_points(copied)
    assert theirs["blocks.0.hook_resid_post"] is copied.blocks[0].hook_out
    assert theirs["blocks.0.hook_resid_post"] is not points["blocks.0.hook_resid_post"]
    monkeypatch.undo()
    bridge._hook_registry["blocks.0.another"] = points["embed.hook_out"]
    assert "blocks.0.another" in hooked.hook_points(bridge)


def test_unknown_and_disabled_hooks_of_a_bridge_are_refused():
    bridge = to_bridge(hf_model("qwen2"), tokenizer())
    with pytest.raises(InputError, match=r"no hook 'blocks.0.hook_resid_pots'; did you mean 'blocks.0\.hook_resid_po"):
        hooked.run_with_hooks(bridge, IDS, [("blocks.0.hook_resid_pots", lambda act, hook: None)])
    with pytest.raises(ValueError, match="use_attn_result"):
        hooked.run_with_hooks(bridge, IDS, [("blocks.0.attn.hook_result", lambda act, hook: None)])
    assert bridge.context_level == 0
