"""Bounded losses equal their definitions, computed another way."""

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from unpact_lens.unlearning import bounded_losses as losses

MASK = torch.tensor([[True, True, False], [True, False, False]])


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_jensen_shannon_is_scipys():
    p, q = drawn(2, 3, 5), drawn(2, 3, 5).flip(-1)
    a, b = p[MASK].softmax(-1).numpy(), q[MASK].softmax(-1).numpy()
    expected = (jensenshannon(a, b, axis=-1) ** 2).mean()
    assert float(losses.jensen_shannon(p, q, MASK)) == pytest.approx(expected, abs=1e-12)
    assert float(losses.jensen_shannon(p, p, MASK)) == pytest.approx(0, abs=1e-15)


def test_jensen_shannon_to_a_label_is_that_to_a_certain_distribution():
    logits, labels = drawn(2, 3, 5), torch.tensor([[0, 4, 1], [2, 2, 2]])
    log_p = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    certain = torch.nn.functional.one_hot(labels, 5).double()[MASK].numpy()
    expected = (jensenshannon(logits.softmax(-1)[MASK].numpy(), certain, axis=-1) ** 2).mean()
    assert float(losses.jensen_shannon_to_label(log_p, MASK)) == pytest.approx(expected, abs=1e-12)


def test_jensen_shannon_to_a_label_is_bounded_and_flat_at_both_ends():
    log_p = torch.tensor([[-60.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = losses.jensen_shannon_to_label(log_p, torch.tensor([[True, True]]))
    loss.backward()
    assert float(loss) == pytest.approx(math.log(2) / 2)  # log 2 for an impossible label, 0 for a certain one
    assert log_p.grad[0, 0].abs() < 1e-20
    assert log_p.grad[0, 1] == pytest.approx((0 + 1 - math.log(2) - 1) / 4)  # half of p(1 + log p − log(1+p) − 1)/2


def test_logit_margin_is_the_squared_distance_of_the_largest_logit_from_the_mean():
    logits = torch.tensor([[[3.0, 0.0, 0.0], [1.0, 1.0, 1.0], [9.0, 0.0, 0.0]]])
    assert float(losses.logit_margin(logits, torch.tensor([[True, True, False]]))) == pytest.approx((4 + 0) / 2)


def test_values_outside_the_mask_have_no_effect_and_no_gradient():
    logits = torch.zeros(2, 3, 4).masked_fill(~MASK[..., None], torch.nan).requires_grad_()
    for loss in (losses.jensen_shannon(logits, torch.zeros(2, 3, 4), MASK), losses.logit_margin(logits, MASK)):
        logits.grad = None
        loss.backward()
        assert logits.grad.isfinite().all()
