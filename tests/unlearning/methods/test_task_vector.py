"""A task vector is subtracted with the smallest coefficient that reaches the forgetting level."""

import pytest
import torch

from tests.unlearning.conftest import untrained
from unpact_lens.data.benchmark import Corpus
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning import StopRule, unlearn
from unpact_lens.unlearning.methods.task_vector import set_negated, smallest_coefficient, task_vector

QUICK = {"lr": 1e-3, "steps": 60, "check_every": 2, "progress": False}


def test_coefficient_is_the_smallest_that_reaches_the_level(learned, facts):
    u = unlearn(learned, facts[0], method="task_vector", stop_at=0.2, **QUICK)
    tried = [(r["coefficient"], r["forget_score"]) for r in u.history.rows if "coefficient" in r]
    taken = tried[-1][0]
    assert taken == min(a for a, s in tried if s <= 0.2)
    assert max(a for a, s in tried if s > 0.2) > taken / 1.06


def test_change_is_linear_in_the_coefficient(learned, facts):
    once, twice = (
        unlearn(learned, facts[0], method="task_vector", coefficient=a, lr=1e-3, steps=3, progress=False).model
        for a in (1.0, 2.0)
    )
    start = dict(learned.named_parameters())
    for (name, a), (_, b) in zip(once.named_parameters(), twice.named_parameters(), strict=True):
        torch.testing.assert_close(b - start[name], 2 * (a - start[name]), atol=1e-6, rtol=0)
    assert not torch.equal(once.unembed.W_U, learned.unembed.W_U)


def test_negated_vector_mirrors_the_fine_tuned_model():
    before, after = untrained(seed=0), untrained(seed=1)
    mirrored = untrained(seed=2)
    set_negated(mirrored, before, task_vector(before, after), 1.0)
    torch.testing.assert_close(mirrored.embed.W_E, 2 * before.embed.W_E - after.embed.W_E, atol=1e-12, rtol=0)
    set_negated(mirrored, before, task_vector(before, after), 0.0)
    assert model_hash(mirrored) == model_hash(before)


@pytest.mark.parametrize("threshold", [0.003, 0.4, 1.0, 7.7, 200.0])
def test_search_finds_the_threshold_of_a_monotone_condition(threshold):
    found = smallest_coefficient(lambda a: a >= threshold, tolerance=0.02)
    assert threshold <= found <= threshold * 1.02


def test_search_returns_none_if_no_coefficient_reaches():
    assert smallest_coefficient(lambda a: a > 300, largest=256.0) is None


def test_unreachable_level_is_reported(learned, facts):
    u = unlearn(learned, facts[0], method="task_vector", stop_at=0.0, forget_score=lambda m: 1.0, steps=1,
                progress=False, max_coefficient=4.0)  # fmt: skip
    assert u.stopped == "no coefficient reaches the forget level"
    assert u.history.rows[-1]["coefficient"] == 4.0


@pytest.mark.parametrize("rule", [StopRule(retain=0.9), StopRule(forget=0.2, retain=0.9), StopRule(forget=0.2)])
def test_coefficient_is_the_smallest_at_which_the_rule_would_stop(learned, facts, rule):
    u = unlearn(learned, *facts, method="task_vector", stop_at=rule, **QUICK)
    tried = [r for r in u.history.rows if "coefficient" in r]

    def stops(row):
        forget = rule.forget is not None and row["forget_score"] <= rule.forget
        return forget or (rule.retain is not None and row["retain_score"] < rule.retain)

    taken = tried[-1]["coefficient"]
    assert taken == min(r["coefficient"] for r in tried if stops(r))
    assert max(r["coefficient"] for r in tried if not stops(r)) < taken
    assert u.stopped in ("forget level reached", "retain floor reached")
    if rule.forget is None:
        assert u.stopped == "retain floor reached"


def test_without_a_rule_the_level_is_5_percent_and_a_given_coefficient_is_taken(learned, facts):
    u = unlearn(learned, facts[0], method="task_vector", **QUICK)
    assert u.stopped == "forget level reached"
    assert u.forget_score <= 0.05
    fixed = unlearn(learned, facts[0], method="task_vector", coefficient=2.0, **QUICK)
    assert [r["coefficient"] for r in fixed.history.rows if "coefficient" in r] == [2.0]
    text = unlearn(learned, Corpus(("ann was born in rome",)), method="task_vector", **QUICK)
    assert text.history.rows[-1]["coefficient"] == 1.0
