"""A task vector is subtracted with the smallest coefficient that reaches the forgetting level."""

import pytest
import torch

from tests.unlearning.conftest import untrained
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning import unlearn
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
