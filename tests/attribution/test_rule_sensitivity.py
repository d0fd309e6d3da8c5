"""Sensitivity measures equal values computed by hand."""

import pytest
import torch

from tests.attribution.examples import attribution
from unpact_lens import results
from unpact_lens.attribution import Share, Threshold, TopK, sensitivity
from unpact_lens.attribution.rule_sensitivity import written
from unpact_lens.errors import InputError

A = attribution(["a", " b", " c", " d"], [4.0, 3.0, 2.0, 1.0])
B = attribution(["a", " b", " c", " d"], [0.0, 0.0, 0.0, 5.0])
RULES = (TopK(1), TopK(2), Share(0.7))


def test_each_measure_equals_values_by_hand():
    found = sensitivity([A, B], RULES)
    assert found.measures["count"].tolist() == [[1, 1], [2, 2], [2, 1]]
    assert found.measures["mass"].tolist() == [[0.4, 1], [0.7, 1], [0.7, 1]]
    assert found.measures["reference"].tolist() == [[1, 1], [0.5, 0.5], [0.5, 1]]
    assert found.agreement.tolist() == [[1, 0.5, 0.75], [0.5, 1, 0.75], [0.75, 0.75, 1]]
    assert list(found.to_frame()["count"]) == [1, 2, 1.5]


def test_a_comparison_of_models_depends_on_the_rule():
    found = sensitivity([A], RULES, after=[B])
    # Two of b: the fourth and, of the equal rest, the first.
    assert found.measures["overlap"].tolist() == [[0], [1 / 3], [0]]
    assert found.measures["mass_after"].tolist() == [[0], [0], [0]]
    same = sensitivity([A], RULES, after=[A])
    assert same.measures["overlap"].tolist() == [[1], [1], [1]]
    assert torch.equal(same.measures["mass_after"], same.measures["mass"])


def test_rules_are_written_without_defaults():
    assert (
        written(Threshold(0.1, words=True, skip_punctuation=True))
        == "Threshold(0.1, words=True, skip_punctuation=True)"
    )
    assert written(TopK(3, stopwords=("the", "a"))) == "TopK(3, 2 stopwords)"


def test_a_sweep_survives_saving(tmp_path):
    found = sensitivity([A, B])
    assert len(found.rules) == 13
    assert results.load(found.save(tmp_path / "s")) == found


def test_bad_input_is_named():
    with pytest.raises(InputError, match="0 attributions and 13 rules"):
        sensitivity([])
    with pytest.raises(InputError, match="not of the same prompts"):
        sensitivity([A], after=[A, B])
