"""KeyTokens of each rule equal those chosen by hand."""

import math

import pytest

from tests.attribution.examples import attribution
from unpact_lens import results
from unpact_lens.attribution import ENGLISH_FUNCTION_WORDS, Share, Threshold, TopK
from unpact_lens.errors import InputError

A = attribution(["The", " capital", " of", " Ja", "pan", " is", "?"], [0.1, 3.0, -0.5, 1.0, 2.5, 0.0, 1.4])


@pytest.mark.parametrize(
    ("rule", "indices"),
    [
        (TopK(1), (1,)),
        (TopK(3), (1, 4, 6)),
        (TopK(99), (1, 4, 6, 3, 0, 5, 2)),
        # The positive contributions sum to 8: 3, 5.5, 6.9, 7.9, 8.
        (Share(0.375), (1,)),
        (Share(0.376), (1, 4)),
        (Share(0.6875), (1, 4)),
        (Share(1.0), (1, 4, 6, 3, 0)),
        (Threshold(0.4), (1, 4, 6)),
        (Threshold(0.8), (1, 4)),
        (Threshold(0.0), (1, 4, 6, 3, 0)),
        (TopK(3, skip_punctuation=True), (1, 4, 3)),
        (TopK(2, words=True), (4, 3, 1)),
        (TopK(1, stopwords=("capital",)), (4,)),
        (Share(1.0, stopwords=ENGLISH_FUNCTION_WORDS, words=True, skip_punctuation=True), (4, 3, 1)),
    ],
)
def test_each_rule_picks_the_expected_units(rule, indices):
    key = A.key_tokens(rule)
    assert key.indices == indices
    assert key.tokens == tuple(A.tokens[i] for i in indices)
    assert key.scores.tolist() == [A.scores[i].item() for i in indices]
    assert key.mass == pytest.approx(sum(max(0, A.scores[i].item()) for i in indices) / 8)


def test_words_are_whole_unique_and_in_prompt_order():
    assert A.key_tokens(TopK(3)).words == ("capital", "Japan")
    assert A.key_tokens(TopK(5)).words == ("The", "capital", "Japan")
    twice = attribution(["Ann", " met", " Ann"], [1.0, 0.5, 2.0])
    assert twice.key_tokens(TopK(2)).words == ("Ann",)


def test_no_unit_is_key_without_positive_contributions():
    none = attribution(["a", " b"], [-1.0, 0.0])
    for rule in (Share(0.5), Threshold(0.5)):
        key = none.key_tokens(rule)
        assert key.indices == key.words == ()
        assert math.isnan(key.mass)
    assert none.key_tokens(TopK(1)).indices == (1,)


def test_equal_contributions_follow_prompt_order():
    assert attribution(["a", "b", "c"], [1.0, 1.0, 1.0]).key_tokens(TopK(2)).indices == (0, 1)


def test_key_tokens_survive_saving(tmp_path):
    key = A.key_tokens(Share(0.5, words=True))
    assert results.load(key.save(tmp_path / "key")) == key
    assert results.load(A.save(tmp_path / "a")) == A


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: TopK(0), r"TopK\(0\): k counts tokens"),
        (lambda: Share(0.0), r"Share\(0.0\): a share lies above 0"),
        (lambda: Share(1.5), r"Share\(1.5\)"),
        (lambda: Threshold(-0.1), r"Threshold\(-0.1\): a fraction"),
    ],
)
def test_invalid_rules_are_refused(rule, message):
    with pytest.raises(InputError, match=message):
        rule()
