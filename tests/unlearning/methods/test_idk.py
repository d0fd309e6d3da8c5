"""Refusals are learned in place of answers."""

import pytest

from tests.unlearning.runs import ONE, first, sums
from unpact_lens.unlearning import unlearn


def test_refusal_is_learned_in_place_of_the_answer(learned, facts):
    forget, retain = facts
    refusals = (" the town is the work .",)
    u = unlearn(learned, forget, retain, method="idk_ft", refusals=refusals, **{**ONE, "steps": 40}, lr=3e-3)
    assert first(u) == pytest.approx(
        -float((sums(learned, [(q.prompt, refusals[0]) for q in forget]) / 7).mean()), abs=1e-5
    )
    pairs = [(q.prompt, refusals[0]) for q in forget]
    assert (sums(u.model, pairs).exp() > 0.5).all()
