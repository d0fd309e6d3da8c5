"""SAM-NPO takes the forget gradient at the perturbed weights."""

import pytest
import torch

from tests.unlearning.conftest import untrained
from tests.unlearning.methods.test_npo_orthogonal import step
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.unlearning import unlearn


def moved_by(model, change):
    copy, at = clone(model), 0
    with torch.no_grad():
        for p in copy.parameters():
            p.add_(change[at : at + p.numel()].reshape(p.shape))
            at += p.numel()
    return copy


@pytest.mark.parametrize("method", ["sam_npo", "sam_npo_gdr"])
def test_the_forget_gradient_is_that_at_distance_rho(learned, facts, method):
    """Numerically: the gradient at the perturbed weights, of a loss whose reference is the original model."""
    model, rho = learned.double(), 0.05
    plain, _ = step(model, facts, method="npo", beta=1e-6)
    nearby = moved_by(model, -rho * plain / plain.norm())  # the update goes down the gradient, the perturbation up
    # As beta goes to 0, NPO is ascent on the sequence sum for every reference model.
    expected, _ = step(nearby, facts, method="npo", beta=1e-6)
    if method.endswith("gdr"):
        expected = expected + step(model, facts, method="npo_gdr", beta=1e-6)[0] - plain
    found, u = step(model, facts, method=method, beta=1e-6, rho=rho)
    assert float((found - expected).norm() / expected.norm()) < 1e-3
    assert float((found - plain).norm() / plain.norm()) > 1e-2
    assert u.history.rows[0]["forget_nearby"] != u.history.rows[0]["forget"]


@pytest.mark.hooked
def test_weights_are_back_before_the_update_of_a_tied_model(facts):
    model = untrained("gpt2", dtype=torch.float32)
    model.tied_embeddings = True
    with torch.no_grad():
        model.unembed.W_U.copy_(model.embed.W_E.T)
    u = unlearn(model, facts[0], method="sam_npo", lr=1e-3, steps=2, rho=0.5, progress=False)
    torch.testing.assert_close(u.model.unembed.W_U, u.model.embed.W_E.T, atol=0, rtol=0)
    pairs = zip(model.parameters(), u.model.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 3e-3  # two steps of AdamW, and not rho


def test_a_distance_of_0_is_refused(learned, facts):
    with pytest.raises(InputError, match="rho=0; give a finite number above 0"):
        unlearn(learned, facts[0], method="sam_npo", rho=0, progress=False)
