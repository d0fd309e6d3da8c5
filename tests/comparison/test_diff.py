"""Every Δ between two models is exact; a model against its copy gives exact zeros."""

import pytest
import torch

from tests.comparison.models import FAMILIES, moved, pair
from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.comparison import diff
from unpact_lens.decomposition import decompose
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2, 6]
GEMMA2 = {"use_normalization_before_and_after": True, "output_logits_soft_cap": 5.0}
DELTAS = ("log_prob", "logit", "logsumexp", "components", "heads", "contributions")


def logits_of(model):
    return model(torch.tensor([PROMPT + ANSWER]))[0, len(PROMPT) - 1 : -1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("style", FAMILIES)
def test_deltas_equal_those_of_two_plain_forward_passes(style, dtype, tolerance):
    before, after = pair(style, dtype)
    d = diff(before, after, PROMPT, ANSWER, weights=False)
    close = {"atol": tolerance, "rtol": 0}
    logit, normaliser = [], []
    for model in (before, after):
        logits = logits_of(model)
        logit.append(logits[[0, 1, 2], ANSWER])
        normaliser.append(logits.logsumexp(-1))
    torch.testing.assert_close(d.delta_logit, logit[1] - logit[0], **close)
    torch.testing.assert_close(d.delta_logsumexp, normaliser[1] - normaliser[0], **close)
    torch.testing.assert_close(d.delta_log_prob, d.delta_logit - d.delta_logsumexp, **close)
    torch.testing.assert_close(d.delta_components.sum(0), d.delta_logit, **close)
    rest = d.heads_after.remainder.sum(0) - d.heads_before.remainder.sum(0)
    torch.testing.assert_close(d.delta_heads.sum((0, 1)) + rest, d.delta_logit, **close)
    assert d.delta_log_prob.abs().max() > 0.05


def test_with_a_soft_cap_both_sums_hold_for_the_logit_before_it():
    before, after = pair("llama", **GEMMA2)
    d = diff(before, after, PROMPT, ANSWER, weights=False)
    log_probs = [logits_of(m).log_softmax(-1)[[0, 1, 2], ANSWER] for m in (before, after)]
    torch.testing.assert_close(d.delta_log_prob, log_probs[1] - log_probs[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(d.delta_components.sum(0), d.delta_logit, atol=1e-10, rtol=0)
    torch.testing.assert_close(d.delta_logit - d.delta_logsumexp, d.delta_log_prob, atol=1e-10, rtol=0)
    assert "before the final soft-cap" in d.notes[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("style", FAMILIES)
def test_a_model_against_its_copy_gives_exact_zeros(style, dtype):
    model, _ = pair(style, dtype)
    d = diff(model, clone(model), PROMPT, ANSWER)
    for name in DELTAS:
        delta = getattr(d, f"delta_{name}")
        assert torch.equal(delta, torch.zeros_like(delta)), name
    assert torch.equal(d.weights.norm_delta, torch.zeros_like(d.weights.norm_delta))
    assert torch.equal(d.weights.cosine, torch.ones_like(d.weights.cosine))


def test_diff_works_on_bridges(tmp_path):
    before, _ = bridge("llama", tmp_path)
    same = diff(before, clone(before), PROMPT, ANSWER)
    assert not same.delta_components.any()
    assert not same.weights.norm_delta.any()
    after = clone(before)
    with torch.no_grad():
        after.blocks[1].mlp.out.weight.mul_(1.5)
    d = diff(before, after, PROMPT, ANSWER)
    torch.testing.assert_close(d.delta_components.sum(0), d.delta_logit, atol=1e-4, rtol=0)
    changed = [n for n, x in zip(d.weights.names, d.weights.relative, strict=True) if x > 0]
    assert changed == ["blocks.1.mlp.out.weight"]


@pytest.mark.parametrize("family", ["gpt2", "neox", "qwen2", "gemma2", "olmo2", "mixtral"])
def test_both_sums_hold_on_bridges_of_every_family(family, tmp_path):
    before, _ = bridge(family, tmp_path)
    d = diff(before, moved(before), PROMPT, ANSWER, contributions=False, weights=False)
    torch.testing.assert_close(d.delta_components.sum(0), d.delta_logit, atol=1e-4, rtol=0)
    torch.testing.assert_close(d.delta_logit - d.delta_logsumexp, d.delta_log_prob, atol=1e-4, rtol=0)
    assert d.delta_logit.abs().max() > 1e-3


def test_contributions_are_leave_one_out_under_each_model():
    before, after = pair("llama")
    d = diff(before, after, PROMPT, ANSWER, weights=False)
    rows = []
    for model in (before, after):
        whole = logits_of(model).log_softmax(-1)[[0, 1, 2], ANSWER].mean()
        without = model(torch.tensor([PROMPT[1:] + ANSWER]))[0, len(PROMPT) - 2 : -1].log_softmax(-1)
        rows.append(whole - without[[0, 1, 2], ANSWER].mean())
    torch.testing.assert_close(d.delta_contributions[0], rows[1] - rows[0], atol=1e-10, rtol=0)
    assert diff(before, after, PROMPT, ANSWER, contributions=False, weights=False).delta_contributions is None


def test_sources_equal_decompose_and_sum_to_the_heads():
    before, after = pair("pythia")
    d = diff(before, after, PROMPT, ANSWER, contributions=False, sources=True, weights=False)
    assert d.sources_before == decompose(before, PROMPT, ANSWER, by="source")
    assert d.sources_after == decompose(after, PROMPT, ANSWER, by="source")
    delta = (d.sources_after.values - d.sources_before.values).sum(2)
    torch.testing.assert_close(delta, d.delta_heads, atol=1e-10, rtol=0)
    frame = d.sources_frame()
    assert frame["token"].tolist() == list(d.tokens)
    assert frame["delta"].sum() == pytest.approx(d.delta_heads.sum((0, 1)).mean().item(), abs=1e-10)
    plain = diff(before, after, PROMPT, ANSWER, contributions=False, weights=False)
    with pytest.raises(InputError, match="has no sources; make it with diff"):
        plain.sources_frame()


def test_diff_does_not_change_the_models():
    before, after = pair()
    kept = [{k: v.clone() for k, v in m.state_dict().items()} for m in (before, after)]
    diff(before, after, PROMPT, ANSWER)
    for model, weights in zip((before, after), kept, strict=True):
        assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_a_diff_survives_saving(tmp_path):
    d = diff(*pair(), PROMPT, ANSWER)
    assert load(save(d, tmp_path / "diff")) == d
    assert d != diff(*pair(), PROMPT, ANSWER[:1])
    frame = d.to_frame()
    assert frame["delta"].sum() == pytest.approx(d.delta_logit.mean().item())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"n_layers": 2}, "cfg.n_layers is 3 before and 2 after"),
        ({"d_vocab": 60}, "cfg.d_vocab is 50 before and 60 after"),
        ({"style": "llama"}, "cfg.n_key_value_heads is None before and 2 after"),
        ({"act_fn": "relu"}, "cfg.act_fn is 'gelu_new' before and 'relu' after"),
    ],
)
def test_models_of_different_shape_raise_an_error_naming_the_first_mismatch(other, message):
    with pytest.raises(InputError, match=message):
        diff(tiny(), tiny(**other), PROMPT, ANSWER)


@pytest.mark.hooked
def test_models_of_different_kind_vocabulary_or_weights_raise_an_error(tmp_path):
    bridged, _ = bridge("gpt2", tmp_path)
    with pytest.raises(InputError, match="before is a HookedTransformer, after is a TransformerBridge"):
        diff(tiny(), bridged, PROMPT, ANSWER)
    before, after = tiny(), moved(tiny())
    before.tokenizer, after.tokenizer = Vocabulary({"a": 0, "b": 1}), Vocabulary({"a": 0, "c": 1})
    with pytest.raises(InputError, match="token 'b' has id 1 before and None after"):
        diff(before, after, PROMPT, ANSWER)
    before = tiny()
    before.blocks[0].attn.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(InputError, match=r"weight blocks\.0\.attn\.extra exists only before"):
        diff(before, tiny(), PROMPT, ANSWER)


class Vocabulary:
    def __init__(self, ids):
        self.ids = ids

    def get_vocab(self):
        return self.ids
