"""A patch is the other model's activation at a place, a graft is the other model's weight."""

import pytest
import torch

from tests.comparison.models import moved, pair
from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.comparison import graft, graft_map, patch
from unpact_lens.comparison.patch import PLACES
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, named_weights
from unpact_lens.models.convert import to_hooked
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1], [9, 2]
TOKENS = torch.tensor([(PROMPT + ANSWER)[:-1]])


def mean_log_prob(model, hooks=()):
    logits = model.run_with_hooks(TOKENS, fwd_hooks=list(hooks))
    return logits[0, len(PROMPT) - 1 :].log_softmax(-1)[[0, 1], ANSWER].mean().item()


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("method", ["exact", "gradient"])
def test_patching_own_activations_changes_nothing(model64, what, method):
    found = patch(model64, clone(model64), PROMPT, ANSWER, what=what, method=method)
    assert found.values.abs().max() < 1e-10
    assert found.baseline == pytest.approx(mean_log_prob(model64), abs=1e-10)
    assert found.restored.isnan().all()


@pytest.mark.parametrize("direction", ["before_into_after", "after_into_before"])
def test_each_cell_equals_one_run_with_the_donors_activation(style, direction):
    before, after = pair(style)
    donor, recipient = (before, after) if direction == "before_into_after" else (after, before)
    _, cache = donor.run_with_cache(TOKENS)

    def put(name, index):
        def hook(act, hook):
            act = act.clone()
            act[index] = cache[name][index]
            return act

        return mean_log_prob(recipient, [(name, hook)])

    whole = slice(None)
    for what, name, index, cell in [
        ("resid_pre", "blocks.1.hook_resid_pre", (0, 2), (1, 2)),
        ("resid_post", "blocks.2.hook_resid_post", (0, 4), (2, 4)),
        ("mlp_out", "blocks.0.hook_mlp_out", (0, 3), (0, 3)),
        ("head", "blocks.1.attn.hook_z", (0, whole, 2), (1, 2)),
        ("attn", "blocks.2.hook_attn_out", (0,), (2, 0)),
        ("layer", "blocks.0.hook_resid_post", (0,), (0, 0)),
    ]:
        found = patch(before, after, PROMPT, ANSWER, what=what, direction=direction, batch_tokens=16)
        assert found.log_prob[cell].item() == pytest.approx(put(name, index), abs=1e-10), what
        assert found.baseline == pytest.approx(mean_log_prob(recipient), abs=1e-10)
        assert found.donor == pytest.approx(mean_log_prob(donor), abs=1e-10)
        gap = found.donor - found.baseline
        torch.testing.assert_close(found.restored, (found.log_prob - found.baseline) / gap)


def test_the_donors_final_residual_and_readout_give_the_donors_logits(model64):
    """`ln_final` (scale and bias), `W_U` and `b_U` grafted, and the last residual stream patched."""
    after = moved(model64)
    grafted = graft(after, model64, ["ln_final.*", "unembed.*"])
    found = patch(model64, grafted, PROMPT, ANSWER, what="layer")
    assert found.log_prob[-1, 0].item() == pytest.approx(mean_log_prob(model64), abs=1e-10)
    assert found.restored[-1, 0].item() == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("what", PLACES)
def test_gradient_method_is_the_limit_of_small_changes_and_reports_its_error(style, what):
    before = tiny(style)
    after = moved(before, size=1e-5)
    found = patch(before, after, PROMPT, ANSWER, what=what, method="gradient", check=True)
    exact = patch(before, after, PROMPT, ANSWER, what=what)
    torch.testing.assert_close(found.error, exact.log_prob - found.log_prob, atol=1e-12, rtol=0)
    assert found.error.abs().max() < 1e-3 * exact.values.abs().max()
    far = patch(before, moved(before, size=0.3), PROMPT, ANSWER, what=what, method="gradient", check=True)
    assert far.error.abs().max() > 1e-3
    assert patch(before, after, PROMPT, ANSWER, what=what, method="gradient").error is None


def test_gradient_method_needs_no_trainable_weights_and_leaves_no_gradients():
    before, after = pair("llama")
    expected = patch(before, after, PROMPT, ANSWER, method="gradient")
    after.requires_grad_(False)
    assert patch(before, after, PROMPT, ANSWER, method="gradient") == expected
    assert all(p.grad is None for p in [*before.parameters(), *after.parameters()])


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_bridges_give_the_same_patches_as_hooked_transformers(family, tmp_path):
    bridges, twins = [], []
    for seed in (1, 2):
        bridged, hf = bridge(family, tmp_path / str(seed), seed=seed)
        bridges.append(bridged)
        twins.append(to_hooked(hf, bridged.tokenizer))
        twins[-1].cfg.default_prepend_bos = False
    for what in ("resid_pre", "head", "mlp"):
        for method in ("exact", "gradient"):
            ours = patch(*bridges, PROMPT, ANSWER, what=what, method=method)
            theirs = patch(*twins, PROMPT, ANSWER, what=what, method=method)
            torch.testing.assert_close(ours.log_prob, theirs.log_prob, atol=1e-4, rtol=0)


def test_a_graft_replaces_only_the_named_weights():
    before, after = pair("llama")
    grafted = graft(after, before, ["blocks.1.*", "unembed.W_U"])
    for name, weight in named_weights(grafted).items():
        source = before if name.startswith("blocks.1.") or name == "unembed.W_U" else after
        assert torch.equal(weight, named_weights(source)[name]), name
    assert graft(after, before, "*").W_U.data_ptr() != before.W_U.data_ptr()


def test_a_tied_embedding_is_grafted_with_its_unembedding():
    before, after = pair("llama")
    before.tied_embeddings = after.tied_embeddings = True
    grafted = graft(after, before, "embed.W_E")
    assert torch.equal(grafted.W_U, before.W_U)


@pytest.mark.parametrize("unit", [pytest.param("matrix", marks=pytest.mark.hooked), "layer"])
def test_each_cell_of_the_graft_map_equals_that_graft(style, unit):
    before, after = pair(style)
    found = graft_map(before, after, PROMPT, ANSWER, unit=unit)
    if unit == "matrix":
        cells = {(1, found.labels[1].index("attn.W_O")): "blocks.1.attn.W_O"}
    else:
        cells = {(2, 0): "blocks.1.*", (0, 0): ["embed*", *(["pos_embed*"] if style == "gpt2" else [])]}
    for cell, patterns in cells.items():
        expected = mean_log_prob(graft(after, before, patterns))
        assert found.log_prob[cell].item() == pytest.approx(expected, abs=1e-10)
    kept = moved(tiny(style))
    assert all(torch.equal(w, named_weights(after)[n]) for n, w in named_weights(kept).items())


@pytest.mark.parametrize("method", ["exact", "gradient"])
def test_chosen_layers_and_heads_are_cells_of_the_whole_map(style, method):
    before, after = pair(style)
    whole = patch(before, after, PROMPT, ANSWER, what="head", method=method)
    part = patch(before, after, PROMPT, ANSWER, what="head", method=method, layers=[2, 0], heads=[3])
    assert part.labels == (("L2", "L0"), ("H3",))
    torch.testing.assert_close(part.log_prob, whole.log_prob[[2, 0]][:, [3]])
    assert (part.baseline, part.donor) == (whole.baseline, whole.donor)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"what": "head", "layers": [3]}, r"layers=\[3\]; give different whole numbers from 0 to 2"),
        ({"what": "head", "heads": [-1]}, r"heads=\[-1\]; give different whole numbers from 0 to 3"),
        ({"what": "head", "layers": []}, r"layers=\[\]; give different"),
        ({"what": "head", "heads": [1, 1]}, r"heads=\[1, 1\]; give different"),
        ({"what": "mlp", "heads": [1]}, r"heads=\[1\] with what='mlp'; give what='head'"),
    ],
)
def test_a_layer_or_head_that_does_not_exist_is_refused(chosen, message):
    before, after = pair("gpt2")
    with pytest.raises(InputError, match=message):
        patch(before, after, PROMPT, ANSWER, **chosen)


def test_a_patching_map_survives_saving(tmp_path):
    found = patch(*pair(), PROMPT, ANSWER, what="head", method="gradient", check=True)
    assert load(save(found, tmp_path / "map")) == found
    assert len(found.to_frame()) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "resid"}, r"what='resid'; did you mean 'resid_pre'"),
        ({"direction": "back"}, "direction='back'; known are"),
        ({"method": "fast"}, "method='fast'; known are"),
    ],
)
def test_errors_name_the_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        patch(*pair(), PROMPT, ANSWER, **arguments)


def test_models_and_weights_that_do_not_fit_raise_an_error():
    with pytest.raises(InputError, match=r"cfg\.n_layers is 3 before and 2 after"):
        patch(tiny(), tiny(n_layers=2), PROMPT, ANSWER)
    with pytest.raises(InputError, match="no MLPs"):
        patch(tiny(attn_only=True), tiny(attn_only=True), PROMPT, ANSWER, what="mlp")
    with pytest.raises(InputError, match=r"no weight matches 'blocks\.1\.attn\.WO'; did you mean"):
        graft(*pair(), "blocks.1.attn.WO")
    with pytest.raises(InputError, match="unit='layers'; did you mean 'layer'"):
        graft_map(*pair(), PROMPT, ANSWER, unit="layers")
    with pytest.raises(InputError, match="direction='x'"):
        graft_map(*pair(), PROMPT, ANSWER, direction="x")
