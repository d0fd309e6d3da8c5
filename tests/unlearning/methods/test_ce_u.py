"""CE-U lowers the answer tokens."""

from tests.unlearning.runs import ONE, sums
from unpact_lens.unlearning import unlearn


def test_ce_u_lowers_the_answers(learned, facts):
    pairs = [(q.prompt, q.answer) for q in facts[0]]
    u = unlearn(learned, facts[0], method="ce_u", lr=1e-3, **{**ONE, "steps": 5})
    assert (sums(u.model, pairs) < sums(learned, pairs) - 0.5).all()
