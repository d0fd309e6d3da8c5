"""A loss on the mean of an answer's tokens fails where the model does not expect the end token, and that is said."""

import pytest
import torch

from unpact_lens.data.benchmark import Corpus
from unpact_lens.models.checkpoint import clone
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.end_token import unexpected_end
from unpact_lens.unlearning.settings import Settings

RUN = {"method": "simnpo", "lr": 3e-3, "steps": 30, "batch_size": 6, "progress": False}


@pytest.fixture
def endless(learned):
    """The learned model with the logit of its end token lowered by 30."""
    model = clone(learned)
    with torch.no_grad():
        model.unembed.b_U[model.tokenizer.eos_token_id] -= 30
    return model


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


@pytest.mark.hooked
def test_the_result_names_the_end_token_and_its_remedy_works(learned, endless, facts):
    u = unlearn(endless, facts[0], **RUN)
    assert u.forgotten <= 0.1
    assert u.warnings[0].startswith("F = 0.00: almost nothing is forgotten; the model gives the end token -")
    assert "give end_token=False" in u.warnings[0]
    assert unlearn(endless, facts[0], **RUN, end_token=False).forgotten > 0.9
    assert unlearn(learned, facts[0], **RUN).forgotten > 0.9


def test_only_a_loss_on_the_mean_is_said_to_suffer_from_it(endless, facts):
    u = unlearn(endless, facts[0], **{**RUN, "method": "npo", "lr": 1e-7})
    assert u.warnings == ("F = 0.00: almost nothing is forgotten; raise lr or steps, or use tune()",)


@pytest.mark.hooked
def test_a_search_leaves_an_unexpected_end_token_out_and_says_so(endless, facts, capsys):
    fixed = {**RUN, "progress": True}
    del fixed["lr"]
    u = unlearn(endless, facts[0], settings="auto", **fixed)
    assert u.config["end_token"] is False
    assert u.forgotten >= 0.9
    assert "so the search trains without it (end_token=False)" in capsys.readouterr().err
    kept = unlearn(endless, facts[0], settings="auto", end_token=True, **{**fixed, "steps": 2})
    assert kept.config["end_token"] is True


def test_a_search_keeps_an_expected_end_token(learned, facts):
    fixed = {k: v for k, v in RUN.items() if k != "lr"}
    assert unlearn(learned, facts[0], settings="auto", **fixed).config["end_token"] is True
