"""Several models on one copy of the weights compute what several copies compute."""

import pytest
import torch

import unpact_lens as ul
from tests.models.families import hf_model, tokenizer
from tests.unlearning.test_trainer import FORGET, RETAIN
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.low_rank import adapters_of, is_adapted
from unpact_lens.models.same_weights import same_weights
from unpact_lens.models.shared_weights import share, shares_weights
from unpact_lens.models.weights import named_weights

LORA = {"method": "lora_npo_gdr", "rank": 2, "lr": 2e-2, "steps": 4, "batch_size": 4, "progress": False}
PROMPT, ANSWER = FORGET[0].prompt, FORGET[0].answer


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request):
    """An original model, an unlearned one on its weights, and full copies of both."""
    before = to_bridge(hf_model(request.param), tokenizer())
    after = ul.unlearn(before, FORGET, RETAIN, **LORA).model
    return before, after, clone(before), clone(after)


def assert_equal(ours, theirs):
    """Equal to 1e-5 of the largest number: the products are those of fp32, summed in another order."""
    torch.testing.assert_close(ours, theirs, atol=1e-5 * max(1.0, float(theirs.abs().max())), rtol=0)


def bytes_beyond(model, base):
    """Bytes of the parameters of a model that lie in no storage of another."""
    held = {p.untyped_storage().data_ptr() for p in base.parameters()}
    return sum(p.nbytes for p in model.parameters() if p.untyped_storage().data_ptr() not in held)


def test_result_with_a_rank_shares_the_weights_of_the_original(pair):
    before, after, _, full = pair
    adapters = sum(a.A.nbytes + a.B.nbytes for _, _, found in adapters_of(after) for a in found)
    assert shares_weights(before, after)
    assert (is_adapted(before), is_adapted(after)) == (False, True)
    assert bytes_beyond(after, before) == adapters > 0
    assert not shares_weights(after, full)
    assert not is_adapted(full)
    assert [p.requires_grad for p in full.parameters()] == [p.requires_grad for p in before.parameters()]


def test_both_models_compute_what_full_copies_compute(pair):
    tokens = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    before, after, *full = pair
    with torch.no_grad():
        for ours, theirs in zip((before, after), full, strict=True):
            assert_equal(ours(tokens), theirs(tokens))
        assert float((before(tokens) - after(tokens)).abs().max()) > 1e-3


def test_named_weights_are_the_sums(pair):
    before, after, _, full = pair
    ours, theirs = named_weights(after), named_weights(full)
    assert list(ours) == list(theirs)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-7, rtol=0)
    assert model_hash(after) != model_hash(before)
    assert same_weights(share(after), after)
    assert not same_weights(before, after)


def test_diff_on_shared_weights(pair):
    before, after, *full = pair
    options = {"sources": True, "split": True, "activations": True}
    ours, theirs = (ul.diff(b, a, PROMPT, ANSWER, **options) for b, a in ((before, after), full))
    assert float(theirs.delta_log_prob.abs().max()) > 1e-2
    for name in ("log_prob_after", "delta_components", "delta_heads", "delta_contributions"):
        assert_equal(getattr(ours, name), getattr(theirs, name))
    assert_equal(ours.sources_after.values, theirs.sources_after.values)
    assert_equal(ours.split.values, theirs.split.values)
    assert_equal(ours.activations.kl, theirs.activations.kl)
    assert ours.weights.names == theirs.weights.names
    for name in ("norm_delta", "spectral", "cosine", "relative"):
        assert_equal(getattr(ours.weights, name).nan_to_num(), getattr(theirs.weights, name).nan_to_num())


@pytest.mark.parametrize("method", ["leave_one_out", "grad_x_input", "value_zeroing", "ov"])
def test_attribution_on_shared_weights(pair, method):
    for ours, theirs in zip(pair[:2], pair[2:], strict=True):
        found = (ul.attribute(m, PROMPT, ANSWER, method=method).scores for m in (ours, theirs))
        assert_equal(*found)
