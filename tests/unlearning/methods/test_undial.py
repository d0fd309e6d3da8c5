"""UNDIAL lowers the memorised tokens."""

from tests.unlearning.runs import ONE, sums
from unpact_lens.unlearning import unlearn


def test_undial_lowers_the_answer_and_has_no_gradient_at_a_tiny_beta(learned, facts):
    still = unlearn(learned, facts[0], method="undial", beta=1e-9, **ONE)
    assert still.history.rows[0]["grad_norm"] < 1e-5
    pairs = [(q.prompt, q.answer) for q in facts[0]]
    u = unlearn(learned, facts[0], method="undial", lr=1e-3, **{**ONE, "steps": 10})
    assert (sums(u.model, pairs) < sums(learned, pairs) - 1).all()
