"""Who's Harry Potter learns the generic predictions."""

from tests.unlearning.runs import ONE
from unpact_lens.unlearning import unlearn


def test_whp_with_a_tiny_strength_keeps_the_original_model(learned, facts):
    u = unlearn(learned, facts[0], method="whp", strength=1e-9, reinforce_steps=2, lr=1e-3, **{**ONE, "steps": 3})
    gap = max(float((p - q).detach().abs().max())
              for p, q in zip(learned.parameters(), u.model.parameters(), strict=True))  # fmt: skip
    assert u.history.rows[0]["grad_norm"] < 1e-5  # already at the target, up to rounding
    strong = unlearn(learned, facts[0], method="whp", reinforce_lr=1e-3, lr=1e-3, reinforce_steps=5, **ONE)
    assert strong.history.rows[0]["grad_norm"] > 100 * u.history.rows[0]["grad_norm"]
    assert gap < 0.01
