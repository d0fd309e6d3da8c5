"""Perplexity is exp of the mean negative log-likelihood, in windows."""

import math

import pytest
import torch

from tests.evaluation.world import trained
from unpact_lens.errors import InputError
from unpact_lens.evaluation.perplexity import perplexity, score_texts

TEXT = "the sea is calm today and old boats lie at the quay"


def by_hand(model, ids):
    with torch.inference_mode():
        log_probs = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    return -sum(float(log_probs[k - 1, ids[k]]) for k in range(1, len(ids)))


def test_without_bos_the_first_token_is_given():
    model = trained()
    ids = model.tokenizer(TEXT)["input_ids"]
    scores = score_texts(model, [TEXT])
    assert scores.tokens.tolist() == [len(ids) - 1]
    assert float(scores.nll[0]) == pytest.approx(by_hand(model, ids), abs=1e-3)


def test_long_texts_are_read_in_windows():
    model = trained()
    ids = model.tokenizer(TEXT)["input_ids"]
    scores = score_texts(model, [TEXT], window=5)
    windows = [ids[k : k + 5] for k in range(0, len(ids), 5)]
    assert int(scores.tokens[0]) == sum(len(w) - 1 for w in windows)
    assert float(scores.nll[0]) == pytest.approx(sum(by_hand(model, w) for w in windows if len(w) > 1), abs=1e-3)


def test_perplexity_weighs_texts_by_their_tokens():
    assert perplexity(torch.tensor([3.0, 1.0]), torch.tensor([3, 5])) == pytest.approx(math.exp(4 / 8))
    assert math.isnan(perplexity(torch.zeros(0), torch.zeros(0, dtype=torch.long)))


def test_a_text_with_nothing_to_predict_is_refused():
    with pytest.raises(InputError, match="plain text 'the' has no token to predict"):
        score_texts(trained(), [TEXT, "the"])
