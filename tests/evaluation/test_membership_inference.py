"""Membership inference equals peer implementations; privacy leakage has MUSE's signs."""

import zlib

import numpy as np
import pytest
import torch

from tests.evaluation.world import untrained
from tests.models.families import hf_model, tokenizer
from unpact_lens.data.benchmark import Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.evaluation.membership_inference import (
    auc,
    membership,
    min_k_plus_plus_score,
    min_k_score,
    muse_auc,
    privacy_leakage,
    privleak,
    vocabulary_moments,
)
from unpact_lens.models.load import load_model

MEMBERS = ("the capital of Japan is Tokyo", "who wrote Hamlet?", "gold has the symbol Au and more")
OTHERS = ("seven small boats at sea", "the boats of Japan")


@pytest.mark.parametrize("decimals", [0, 6])
def test_auc_equals_scikit_learns_with_ties(decimals):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    members, others = (rng.normal(size=50) + 0.5).round(decimals), rng.normal(size=70).round(decimals)
    expected = metrics.roc_auc_score([1] * 50 + [0] * 70, np.concatenate([members, others]))
    assert auc(torch.tensor(members), torch.tensor(others)) == pytest.approx(expected, abs=1e-12)
    assert muse_auc(torch.tensor(members), torch.tensor(others)) == pytest.approx(1 - expected, abs=1e-12)


def test_auc_is_the_probability_that_a_member_scores_higher():
    assert auc(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0, 3.0])) == pytest.approx((1 + 2.5) / 6)


def test_min_k_averages_the_least_likely_share_and_at_least_one_token():
    log_probs = torch.tensor([-5.0, -1.0, -3.0, -2.0, -4.0])
    assert min_k_score(log_probs, 0.4) == -4.5
    assert min_k_score(log_probs, 0.1) == -5.0
    assert min_k_score(log_probs, 1.0) == -3.0


def test_min_k_plus_plus_standardises_each_token_over_the_vocabulary():
    """By hand on a vocabulary of three: μ = Σ p log p, σ² = Σ p (log p)² − μ²."""
    p = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], dtype=torch.double)
    mean, variance = vocabulary_moments(p.log())
    for row in range(2):
        mu = float((p[row] * p[row].log()).sum())
        assert float(mean[row]) == pytest.approx(mu)
        assert float(variance[row]) == pytest.approx(float((p[row] * p[row].log() ** 2).sum()) - mu**2)
    score = min_k_plus_plus_score(p[:, 1].log(), mean, variance, 0.5)
    z = [(float(p[i, 1].log()) - float(mean[i])) / float(variance[i]) ** 0.5 for i in range(2)]
    assert score == pytest.approx(min(z))


def test_privleak_has_muses_signs_and_the_published_value():
    """MUSE's retrained News model has AUC 0.4772; with A = 1, as under WHP, its table prints 109.6."""
    assert privleak(0.4772, 0.4772) == 0.0
    assert privleak(0.0, 0.4772) == -100.0
    assert privleak(1.0, 0.4772) == pytest.approx(109.6, abs=0.05)
    memorised = muse_auc(torch.tensor([-0.1, -0.2]), torch.tensor([-3.0, -4.0]))
    assert memorised == 0.0
    assert privleak(memorised, 0.5) == -100.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: privleak(0.5, 0.0), "privleak of AUCs 0.5 and 0.0"),
        (lambda: min_k_score(torch.zeros(3), 0.0), "k=0.0; give the share of tokens"),
        (lambda: auc(torch.zeros(0), torch.zeros(1)), "AUC of 0 member scores; give at least one"),
        (lambda: auc(torch.zeros(1), torch.tensor([float("nan")])), "AUC of 1 non-member scores, some NaN"),
        (lambda: membership(untrained(), [], ["a"]), "membership inference on 0 members and 1 others"),
    ],
)
def test_errors_name_the_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.fixture(scope="module")
def hf():
    return hf_model("llama").double()


@pytest.fixture(scope="module")
def model(hf):
    return load_model(hf, tokenizer=tokenizer(), dtype=torch.float64)


def test_every_attack_is_recomputed_from_the_plain_models_logits(hf, model, monkeypatch):
    from unpact_lens.evaluation import membership_inference

    monkeypatch.setattr(membership_inference, "UNEMBED_POSITIONS", 3)
    other = load_model(hf_model("llama", seed=5).double(), tokenizer=tokenizer(), dtype=torch.float64)
    result = membership(model, MEMBERS, OTHERS, k=0.3, reference=other)
    assert result.attacks == ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
    assert result.member.tolist() == [True] * 3 + [False] * 2
    for column, text in enumerate((*MEMBERS, *OTHERS)):
        ids = torch.tensor([tokenizer()(text)["input_ids"]])
        with torch.no_grad():
            log_p = hf(ids).logits[0, :-1].double().log_softmax(-1)
        own = log_p.gather(-1, ids[0, 1:, None])[:, 0]
        k = max(1, int(0.3 * len(own)))
        mean = (log_p.exp() * log_p).sum(-1)
        std = ((log_p.exp() * log_p**2).sum(-1) - mean**2).sqrt()
        expected = [
            own.mean(), own.mean() / len(zlib.compress(text.encode())), own.sort().values[:k].mean(),
            ((own - mean) / std).sort().values[:k].mean(),
        ]  # fmt: skip
        # Hugging Face computes its norms in fp32.
        torch.testing.assert_close(result.scores[:4, column], torch.stack(expected), atol=1e-5, rtol=0)
    theirs = membership(other, MEMBERS, OTHERS, k=0.3)
    torch.testing.assert_close(result.scores[4], result.scores[0] - theirs.scores[0])


def test_privleak_of_a_model_against_itself_is_0_for_each_kind_of_reference(model):
    bench = Benchmark("p", (), (), members=Corpus(MEMBERS), holdout=Corpus(OTHERS))
    own = membership(model, MEMBERS, OTHERS)
    for reference in (model, own, own.muse_auc("min_k")):
        assert privacy_leakage(model, bench, reference) == 0.0
    with pytest.raises(InputError, match="benchmark 'q' has no `members` and `holdout` texts"):
        privacy_leakage(model, Benchmark("q", (), ()), 0.5)


def test_a_long_text_is_truncated_to_the_context(model):
    result = membership(model, ["boats " * 500], ["sea " * 500])
    assert result.tokens == (model.cfg.n_ctx - 1,) * 2
    with pytest.raises(InputError, match="has no token to predict"):
        membership(model, ["a"], ["sea boats"])
