"""Ablations equal edited weights and activations, and agree with the attribution where the model is linear."""

import pytest
import torch

from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.decomposition import ablate, decompose
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1], [9, 2]
REFERENCE = [[1, 2, 3], [4, 5, 6, 7, 8]]


def mean_log_prob(model, hooks=()):
    logits = model.run_with_hooks(torch.tensor([PROMPT + ANSWER]), fwd_hooks=list(hooks))
    return logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)[[0, 1], ANSWER].mean().item()


def test_zero_ablation_equals_zero_output_weights(model64):
    heads, mlps = ablate(model64, PROMPT, ANSWER), ablate(model64, PROMPT, ANSWER, what="mlp")
    neurons = ablate(model64, PROMPT, ANSWER, what="neuron", neurons=[(1, 5), (2, 40)])
    assert heads.baseline == pytest.approx(mean_log_prob(model64), abs=1e-10)

    def without(edit):
        copy = clone(model64)
        with torch.no_grad():
            edit(copy)
        return mean_log_prob(copy)

    expected = without(lambda m: m.blocks[1].attn.W_O[2].zero_())
    assert heads.log_prob[1, 2].item() == pytest.approx(expected, abs=1e-10)
    expected = without(lambda m: (m.blocks[2].mlp.W_out.zero_(), m.blocks[2].mlp.b_out.zero_()))
    assert mlps.log_prob[2, 0].item() == pytest.approx(expected, abs=1e-10)
    expected = without(lambda m: m.blocks[2].mlp.W_out[40].zero_())
    assert neurons.log_prob[1, 0].item() == pytest.approx(expected, abs=1e-10)
    assert neurons.labels == (("L1N5", "L2N40"), ("neuron",))
    torch.testing.assert_close(heads.values, heads.baseline - heads.log_prob)


def test_the_mean_is_over_all_positions_of_the_reference():
    model = tiny("llama")
    pool = torch.cat([model.run_with_cache(torch.tensor([ids]))[1]["z", 1][0] for ids in REFERENCE])

    def hook(z, hook):
        z = z.clone()
        z[:, :, 2] = pool[:, 2].mean(0)
        return z

    expected = mean_log_prob(model, [("blocks.1.attn.hook_z", hook)])
    found = ablate(model, PROMPT, ANSWER, how="mean", reference=REFERENCE)
    assert found.log_prob[1, 2].item() == pytest.approx(expected, abs=1e-10)


def test_resampling_a_constant_equals_the_mean_and_other_draws_vary():
    model = tiny("gpt2")
    one_position = [[7]]
    same = ablate(model, PROMPT, ANSWER, what="mlp", how="resample", reference=one_position, draws=3)
    mean = ablate(model, PROMPT, ANSWER, what="mlp", how="mean", reference=one_position)
    torch.testing.assert_close(same.log_prob, mean.log_prob, atol=1e-12, rtol=0)
    assert same.spread.max() < 1e-12
    varied = ablate(model, PROMPT, ANSWER, what="mlp", how="resample", reference=REFERENCE, seed=1)
    assert varied.spread.min() > 0
    assert varied == ablate(model, PROMPT, ANSWER, what="mlp", how="resample", reference=REFERENCE, seed=1)
    assert varied != ablate(model, PROMPT, ANSWER, what="mlp", how="resample", reference=REFERENCE, seed=2)


def test_neurons_chosen_by_default_are_those_with_the_largest_direct_effects():
    model = tiny("llama", d_mlp=40)
    found = ablate(model, PROMPT, ANSWER, what="neuron")
    direct = decompose(model, PROMPT, ANSWER, by="neuron")
    strongest = direct.values.mean(-1).abs().flatten().argmax().item()
    assert found.labels[0][0] == f"L{strongest // 40}N{strongest % 40}"
    assert found.log_prob.shape == (64, 1)


def test_ablating_the_last_mlp_of_a_linear_readout_equals_its_attribution():
    """Predict, perturb, compare: without a final norm, nothing stands between the last MLP and the logit."""
    model = tiny("gpt2", normalization_type=None)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.3)
    d = decompose(model, PROMPT, ANSWER)
    tokens = torch.tensor([(PROMPT + ANSWER)[:-1]])
    off = [("blocks.2.hook_mlp_out", lambda act, hook: torch.zeros_like(act))]
    lost = model(tokens) - model.run_with_hooks(tokens, fwd_hooks=off)
    torch.testing.assert_close(d["L2.mlp"], lost[0, 3:][[0, 1], ANSWER], atol=1e-10, rtol=0)


def test_ablations_of_bridge_and_hooked_model_agree(tmp_path):
    from unpact_lens.models.convert import to_hooked

    bridged, hf = bridge("llama", tmp_path)
    hooked = to_hooked(hf, bridged.tokenizer)
    hooked.cfg.default_prepend_bos = False
    for what in ("head", "mlp"):
        ours, theirs = ablate(bridged, PROMPT, ANSWER, what=what), ablate(hooked, PROMPT, ANSWER, what=what)
        torch.testing.assert_close(ours.log_prob, theirs.log_prob, atol=1e-4, rtol=0)


def test_results_survive_saving(tmp_path):
    found = ablate(tiny(), PROMPT, ANSWER)
    assert load(save(found, tmp_path / "ablation")) == found
    assert len(found.to_frame()) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "heads"}, r"what='heads'; did you mean 'head'\?"),
        ({"how": "means"}, r"how='means'; did you mean 'mean'\?"),
        ({"how": "mean"}, "how='mean' needs reference texts"),
        ({"how": "resample", "reference": [[1]], "draws": 0}, "draws=0"),
        ({"what": "neuron", "neurons": [(0, 48)]}, r"neuron \(0, 48\) is not in the model: .* neurons 0 to 47"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        ablate(tiny(), PROMPT, ANSWER, **arguments)


def test_ablating_mlps_of_a_model_without_them_is_refused():
    with pytest.raises(InputError, match="has no MLPs"):
        ablate(tiny(attn_only=True), PROMPT, ANSWER, what="mlp")
