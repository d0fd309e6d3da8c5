"""A loss can fall by an end token that the model does not expect; it is left out unless it is asked for."""

import pytest
import torch

from tests import conftest
from unpact_lens.data.benchmark import Corpus
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.end_token import unexpected_end
from unpact_lens.unlearning.settings import Settings

RUN = {"method": "simnpo", "lr": 3e-3, "steps": 30, "batch_size": 6, "progress": False}


@pytest.fixture
def endless(learned):
    """The learned model, which no longer expects its end token."""
    return conftest.endless(learned)


@torch.no_grad()
def by_hand(model, items):
    """Mean log-probability of the end token, from a forward pass for each answer."""
    found = []
    for q in items:
        ids = model.tokenizer(q.prompt + q.answer, return_tensors="pt", add_special_tokens=False)["input_ids"]
        found.append(float(model(ids)[0, -1].log_softmax(-1)[model.tokenizer.eos_token_id]))
    return sum(found) / len(found)


def test_an_unexpected_end_token_is_measured(learned, endless, facts):
    assert unexpected_end(endless, facts[0], Settings()) == pytest.approx(by_hand(endless, facts[0]), abs=1e-4)
    assert by_hand(endless, facts[0]) < -20
    assert by_hand(learned, facts[0]) > -1
    assert unexpected_end(learned, facts[0], Settings()) is None


def test_labels_without_an_end_token_have_no_unexpected_one(endless, facts):
    assert unexpected_end(endless, facts[0], Settings(end_token=False)) is None
    assert unexpected_end(endless, Corpus(("oslo rome lima cairo",)), Settings()) is None


@pytest.mark.parametrize(("value", "expected"), [(None, False), (True, True), (False, False)])
def test_an_unexpected_end_token_is_left_out_unless_it_is_asked_for(endless, facts, value, expected, capsys):
    given = {} if value is None else {"end_token": value}
    u = unlearn(endless, facts[0], **{**RUN, "steps": 1, "progress": True}, **given)
    assert u.config["end_token"] is expected
    said = "so it is not trained (end_token=False)" in capsys.readouterr().err
    assert said == (value is None)


def test_an_expected_end_token_is_trained(learned, facts):
    assert unlearn(learned, facts[0], **{**RUN, "steps": 1}).config["end_token"] is True


@pytest.mark.parametrize("method", ["npo", "ga"])
def test_an_unexpected_end_token_takes_the_gradient_of_the_fact(endless, facts, method):
    run = {**RUN, "method": method, "lr": 3e-4}
    trained, left_out = (unlearn(endless, facts[0], **run, **more).model for more in ({"end_token": True}, {}))
    start = by_hand(endless, facts[0])
    assert start - by_hand(trained, facts[0]) > 5
    assert abs(start - by_hand(left_out, facts[0])) < 0.5


@pytest.mark.hooked
def test_the_result_names_the_end_token_and_its_remedy_works(learned, endless, facts):
    u = unlearn(endless, facts[0], **RUN, end_token=True)
    assert u.forgotten <= 0.1
    assert u.warnings[0].startswith("F = 0.00: almost nothing is forgotten; the model gives the end token -")
    assert "give end_token=False" in u.warnings[0]
    assert unlearn(endless, facts[0], **RUN).forgotten > 0.9
    assert unlearn(learned, facts[0], **RUN).forgotten > 0.9


@pytest.mark.hooked
def test_a_search_leaves_an_unexpected_end_token_out(endless, facts):
    fixed = {k: v for k, v in RUN.items() if k != "lr"}
    u = unlearn(endless, facts[0], settings="auto", **fixed)
    assert u.config["end_token"] is False
    assert u.forgotten >= 0.9
    kept = unlearn(endless, facts[0], settings="auto", end_token=True, **{**fixed, "steps": 2})
    assert kept.config["end_token"] is True
