"""Restoring the readings of the KeyTokens restores the loss through them, and only that."""

import importlib
import math

import pytest
import torch

from tests.comparison.models import pair
from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.attribution import TopK, attribute
from unpact_lens.comparison import key_path
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2]
TOKENS = torch.tensor([(PROMPT + ANSWER)[:-1]])


def mean_log_prob(model, hooks=()):
    logits = model.run_with_hooks(TOKENS, fwd_hooks=list(hooks))
    return logits[0, len(PROMPT) - 1 :].log_softmax(-1)[[0, 1], ANSWER].mean().item()


@pytest.mark.parametrize("restore", ["moved", "pattern"])
def test_one_head_of_the_first_layer_equals_a_hook_by_hand(style, restore):
    before, after = pair(style)
    found = key_path(before, after, PROMPT, ANSWER, keys=[1, 4], restore=restore)
    (_, old), (_, new) = before.run_with_cache(TOKENS), after.run_with_cache(TOKENS)
    head, group = 3, 4 // new["v", 0].shape[2]
    source = old if restore == "moved" else new
    was = sum(old["pattern", 0][0, head, :, k, None] * source["v", 0][0, k, head // group] for k in (1, 4))
    now = sum(new["pattern", 0][0, head, :, k, None] * new["v", 0][0, k, head // group] for k in (1, 4))

    def hook(z, hook):
        z = z.clone()
        z[0, :, head] += was - now
        return z

    expected = mean_log_prob(after, [("blocks.0.attn.hook_z", hook)])
    assert found.by_head[0, head].item() == pytest.approx(expected, abs=1e-10)
    assert found.log_prob_before == pytest.approx(mean_log_prob(before), abs=1e-10)
    assert found.log_prob_after == pytest.approx(mean_log_prob(after), abs=1e-10)
    assert found.share == pytest.approx(
        (found.log_prob_key - found.log_prob_after) / (found.log_prob_before - found.log_prob_after)
    )


def test_if_only_attention_changed_restoring_all_tokens_restores_everything():
    before = tiny("pythia")
    after = clone(before)
    with torch.no_grad():
        for block in after.blocks:
            block.attn.W_Q.mul_(0.2)
            block.attn.W_V.mul_(1.3)
    found = key_path(before, after, PROMPT, ANSWER, keys=[1], draws=3)
    assert found.share_all == pytest.approx(1, abs=1e-8)
    assert found.log_prob_rest.shape == (3,)
    assert abs(found.share - 1) > 1e-3


def test_if_only_queries_changed_the_pattern_alone_restores_everything():
    before = tiny("gpt2")
    after = clone(before)
    with torch.no_grad():
        after.blocks[1].attn.W_Q.mul_(0.2)
    found = key_path(before, after, PROMPT, ANSWER, keys=[1], restore="pattern")
    assert found.share_all == pytest.approx(1, abs=1e-8)
    assert found.values[0].abs().max() < 1e-12
    assert found.values[1].abs().max() > 1e-3


def test_keys_come_from_the_original_model_and_batch_size_does_not_matter():
    before, after = pair("llama")
    found = key_path(before, after, PROMPT, ANSWER, keys=TopK(2), seed=3)
    assert found.keys == attribute(before, PROMPT, ANSWER).key_tokens(TopK(2)).indices
    one_by_one = key_path(before, after, PROMPT, ANSWER, keys=found.keys, seed=3, batch_tokens=1)
    torch.testing.assert_close(one_by_one.by_head, found.by_head, atol=1e-12, rtol=0)
    torch.testing.assert_close(one_by_one.log_prob_rest, found.log_prob_rest, atol=1e-12, rtol=0)
    everything = key_path(before, after, PROMPT, ANSWER, keys=range(5))
    assert len(everything.log_prob_rest) == 0
    assert math.isnan(everything.share_rest)


def test_by_head_false_skips_the_runs_of_single_heads(monkeypatch):
    before, after = pair("llama")
    whole = key_path(before, after, PROMPT, ANSWER, keys=[1, 4], draws=3)
    ran, module = [], importlib.import_module("unpact_lens.comparison.key_path")
    true_run = module._run
    monkeypatch.setattr(module, "_run", lambda *given: ran.append(len(given[3])) or true_run(*given))
    without = key_path(before, after, PROMPT, ANSWER, keys=[1, 4], draws=3, by_head=False)
    assert sum(ran) == 2 + 3
    assert without.by_head.shape == whole.by_head.shape
    assert without.by_head.isnan().all()
    assert without.share == pytest.approx(whole.share, abs=1e-12)
    torch.testing.assert_close(without.log_prob_rest, whole.log_prob_rest, atol=1e-12, rtol=0)


def test_equal_models_have_no_loss():
    model = tiny("llama")
    found = key_path(model, clone(model), PROMPT, ANSWER, keys=[0])
    assert math.isnan(found.share)
    assert found.values.abs().max() < 1e-12


def test_bridges_with_grouped_queries(tmp_path):
    before, _ = bridge("llama", tmp_path / "a")
    after, _ = bridge("llama", tmp_path / "b", seed=2)
    found = key_path(before, after, PROMPT, ANSWER, keys=[1, 2])
    (_, old), (_, new) = before.run_with_cache(TOKENS), after.run_with_cache(TOKENS)
    names = "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_v"
    was, now = (sum(c[names[0]][0, 2, :, k, None] * c[names[1]][0, k, 1] for k in (1, 2)) for c in (old, new))

    def hook(z, hook):
        z = z.clone()
        z[0, :, 2] += was - now
        return z

    expected = mean_log_prob(after, [("blocks.1.attn.hook_z", hook)])
    assert found.by_head[1, 2].item() == pytest.approx(expected, abs=1e-4)


def test_a_key_path_survives_saving_and_bad_input_raises_an_error(tmp_path):
    found = key_path(*pair(), PROMPT, ANSWER)
    assert load(save(found, tmp_path / "k")) == found
    assert found.to_frame()["path"].to_list() == ["before", "after", "key tokens", "other tokens", "all tokens"]
    with pytest.raises(InputError, match="key token 5 lies outside the prompt of 5 tokens"):
        key_path(*pair(), PROMPT, ANSWER, keys=[5])
    with pytest.raises(InputError, match="restore='patterns'; did you mean 'pattern'"):
        key_path(*pair(), PROMPT, ANSWER, restore="patterns")
