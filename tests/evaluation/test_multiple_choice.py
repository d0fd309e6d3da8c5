"""A multiple-choice answer is the option with the largest summed log-probability."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.multiple_choice import choose
from unpact_lens.models.load import load_model
from unpact_lens.scoring import log_prob


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("llama").double(), tokenizer=tokenizer(), dtype=torch.float64)


def items():
    options = (" Japan", " gold symbol", " boats at sea")
    return [
        QA(f"who is {i}? ", options[i % 2], id=str(i), kind="ab"[i % 2], choices=options[: 3 - i % 2]) for i in range(4)
    ]


def test_the_sum_of_log_probabilities_decides_and_not_the_mean(model):
    result = choose(model, items())
    for i, q in enumerate(items()):
        sums = [float(log_prob(model, q.prompt, o, per_token=True).sum()) for o in q.choices]
        assert result.log_probs[i, : len(sums)].tolist() == pytest.approx(sums, abs=1e-9)
        assert int(result.chosen[i]) == sums.index(max(sums))
    assert result.log_probs[1, 2] == float("-inf")
    assert result.right.tolist() == [0, 1, 0, 1]
    assert result.accuracy.value == float((result.chosen == result.right).double().mean())
    assert result.to_frame()["n"].tolist() == [2, 2, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "no multiple-choice questions"), ([QA("a", " b", id="x")], "QA x has no `choices`|'x' has")],
)
def test_errors_name_the_bad_input(model, given, message):
    with pytest.raises(InputError, match=message):
        choose(model, given)
