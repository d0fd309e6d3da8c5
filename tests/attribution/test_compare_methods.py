"""Methods are compared on the same prompts, by measures that are checked by hand."""

import math

import pytest
import torch

from tests.attribution.examples import attribution
from tests.models.families import hf_model, tokenizer
from unpact_lens import results
from unpact_lens.attribution import METHODS, attribute_many, compare_methods
from unpact_lens.attribution.compare_methods import stability, stability_top, word_scores
from unpact_lens.attribution.similarity import spearman
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.load import load_model

QAS = [
    QA("the capital of Japan is", " Tokyo", paraphrases=("of Japan the capital is", "Japan: the capital")),
    QA("who wrote Hamlet? seven boats", " Au"),
]


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("gpt2"), tokenizer=tokenizer())


def test_comparison_equals_measures_of_separate_attributions(model, tmp_path):
    found = compare_methods(model, QAS, ["leave_one_out", "grad_norm"], k=2)
    assert found.methods == ("leave_one_out", "grad_norm", "random")
    a, b = (attribute_many(model, QAS, method=m) for m in ("leave_one_out", "grad_norm"))
    expected = sum(spearman(x.scores, y.scores) for x, y in zip(a, b, strict=True)) / 2
    assert found.spearman[0, 1].item() == pytest.approx(expected, abs=1e-6)
    assert found.spearman.diagonal().tolist() == pytest.approx([1, 1, 1])
    assert found.jaccard.diagonal().tolist() == [1, 1, 1]
    assert torch.allclose(found.spearman, found.spearman.T)
    assert [f.method for f in found.faithfulness] == list(found.methods)
    assert found.stability[:2].isfinite().all()
    assert (found.seconds[:2] > 0).all()
    assert len(found.to_frame()) == 3
    assert results.load(found.save(tmp_path / "c")) == found


def test_all_methods_run_by_default_except_shapley_without_a_context(model):
    found = compare_methods(model, QAS[:1], options={"integrated_gradients": {"steps": 3}}, paraphrases=0)
    assert set(found.methods) == {*METHODS, "random"} - {"shapley"}
    assert found.stability.isnan().all()
    with pytest.raises(InputError, match="shapley removes all units at once"):
        compare_methods(model, QAS[:1], ["shapley"])
    with_token = compare_methods(model, QAS[:1], ["shapley"], options={"shapley": {"token": 3, "samples": 2}})
    assert with_token.methods[0] == "shapley"


def test_word_scores_sum_pieces_and_occurrences():
    a = attribution(["An", "n", " met", " Ann", "?"], [1.0, 2.0, 4.0, 8.0, 16.0])
    assert word_scores(a) == {"ann": 11.0, "met": 4.0}


def test_stability_compares_words_shared_by_both_wordings():
    one = attribution(["Where", " was", " Ann", " born"], [0.1, 0.2, 3.0, 2.0])
    other = attribution(["Ann", " was", " born", " in"], [3.0, 0.2, 2.0, 9.0])
    assert stability(one, other) == pytest.approx(1)
    assert stability_top(one, other, 2) == 1
    turned = attribution(["Ann", " was", " born", " in"], [0.1, 3.0, 2.0, 9.0])
    assert stability(one, turned) == pytest.approx(-1)
    assert stability_top(one, turned, 1) == 0
    assert math.isnan(stability(one, attribution(["x", " y"], [1.0, 2.0])))


@pytest.mark.parametrize(
    ("qas", "methods", "options", "message"),
    [
        ([], None, {}, "no questions are given"),
        (QAS, [], {}, "no methods are given"),
        (QAS, ["leave_one"], {}, "unknown attribution method 'leave_one'"),
        (QAS, ["ov", "ov"], {}, "name one twice"),
        (QAS, ["ov"], {"options": {"replace": {}}}, "options are given for 'replace', which is not among"),
        (QAS, ["ov"], {"k": 0}, "k=0"),
    ],
)
def test_bad_input_is_named(model, qas, methods, options, message):
    with pytest.raises(InputError, match=message):
        compare_methods(model, qas, methods, **options)
