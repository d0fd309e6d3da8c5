"""Test that ContextCite solves its optimisation problem and recovers linear functions."""

import pytest
import torch

from tests.attribution.test_leave_one_out import by_hand, random_ids, with_bos
from tests.conftest import tiny
from unpact_lens.attribution import attribute
from unpact_lens.attribution.context_cite import coalitions, lasso, sparse_fit
from unpact_lens.attribution.units import make_example
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import encode

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 12, dtype=torch.float64, generator=GENERATOR)
Y = torch.randn(40, 3, dtype=torch.float64, generator=GENERATOR)


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3])
def test_lasso_weights_satisfy_the_kkt_conditions(alpha):
    weights = lasso(X, Y, alpha)
    slope = X.T @ (Y - X @ weights) / len(X)
    # Karush-Kuhn-Tucker: the slope is at the penalty where a weight stands, and within it where none does.
    on = weights != 0
    torch.testing.assert_close(slope[on], alpha * weights[on].sign(), atol=1e-7, rtol=0)
    assert (slope[~on].abs() <= alpha + 1e-7).all()
    assert alpha == 0 or (~on).any()


def test_a_linear_function_is_recovered_and_fully_explained():
    present = torch.rand(60, 5, generator=GENERATOR) < 0.5
    truth = torch.tensor([[2.0], [0.0], [-1.0], [0.0], [0.5]], dtype=torch.float64)
    weights, explained = sparse_fit(present, present.double() @ truth + 3, alpha=0.0)
    torch.testing.assert_close(weights, truth, atol=1e-6, rtol=0)
    assert explained == pytest.approx(1, abs=1e-9)


def test_a_unit_that_never_varies_has_no_weight():
    present = torch.rand(20, 3, generator=GENERATOR) < 0.5
    present[:, 1] = True
    weights, _ = sparse_fit(present, Y[:20], alpha=0.0)
    assert (weights[1] == 0).all()


def test_the_linear_model_is_fitted_to_deletions_of_the_prompt():
    model = with_bos(tiny())
    prompt, answer = random_ids(6), [3, 4]
    a = attribute(model, prompt, answer, method="context_cite", samples=40, alpha=0.05, seed=5)
    example = make_example(model, encode(model, prompt, answer), prompt, answer)
    present = coalitions(example, 40, 5, may_be_empty=False)
    kept = [[1, *(t for t, here in zip(prompt, row, strict=True) if here)] for row in present.tolist()]
    weights, explained = sparse_fit(present, torch.stack([by_hand(model, row, answer) for row in kept]), alpha=0.05)
    torch.testing.assert_close(a.per_answer_token, weights, atol=1e-7, rtol=0)
    assert a.settings["r2"] == pytest.approx(explained)
    assert 0.3 < present.double().mean() < 0.7


def test_some_unit_always_remains_without_bos():
    a = attribute(tiny(), random_ids(2), [3], method="context_cite", samples=30)
    assert a.scores.isfinite().all()


def test_bad_options_are_named():
    with pytest.raises(InputError, match=r"samples=1, alpha=0\.01; a surrogate needs at least 2"):
        attribute(tiny(), [1, 2, 3], [4], method="context_cite", samples=1)
