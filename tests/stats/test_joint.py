"""Quantities of one distance are drawn together."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from unpact_lens.errors import InputError
from unpact_lens.stats.joint import JointResamples


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


NAMES = [str(i) for i in range(20)]


@pytest.mark.parametrize("events", [0, 3, 20])
def test_with_one_fact_a_subject_a_rate_is_drawn_from_jeffreys_posterior(events):
    happened = flags(*[1] * events + [0] * (20 - events))
    drawn = JointResamples.draw(NAMES, draws=4000).rate(happened, NAMES, quantity="F")
    assert kstest(drawn.numpy(), beta(events + 0.5, 20 - events + 0.5).cdf).pvalue > 0.001
    assert float(drawn.std()) > 0.01


def test_a_difference_without_events_has_a_width_and_mean_zero():
    none = flags(*[0] * 20)
    drawn = JointResamples.draw(NAMES, draws=8000).difference(none, none, NAMES, quantity="excess")
    assert float(drawn.mean()) == pytest.approx(0, abs=0.003)
    assert 0.01 < float(drawn.quantile(0.975)) < 0.2


def test_one_draw_uses_the_same_subjects_and_seeds_for_all_quantities():
    generator = torch.Generator().manual_seed(0)
    happened = torch.rand(3, 20, generator=generator) < 0.5
    joint = JointResamples.draw(NAMES, seeds=3)
    first, second = (joint.rate(h, NAMES, quantity=q) for h, q in ((happened, "F"), (~happened, "D")))
    # The two rates sum to 1 but for their two unseen subjects of twenty.
    assert float(torch.corrcoef(torch.stack([first, second]))[0, 1]) < -0.5
    same = joint.rate(happened, NAMES, quantity="F")
    assert torch.equal(first, same)
    kept = joint.rate(happened, NAMES, among=torch.zeros_like(happened), quantity="F")
    assert bool(kept.isnan().all())


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_seeds_spread_like_a_mean_of_as_many(seeds):
    joint = JointResamples.draw(["a"], seeds=seeds, draws=40000)
    values = np.arange(seeds, dtype=float)
    assert (joint.seeds @ values).var() == pytest.approx(values.var(ddof=1) / seeds, rel=0.05)
    assert joint.seeds.sum(1) == pytest.approx(1)


def test_wrong_arguments_are_named():
    joint = JointResamples.draw(["a", "b"], seeds=2)
    with pytest.raises(InputError, match="subject 'c' is not among"):
        joint.rate(flags(1, 0), ["a", "c"], quantity="F")
    with pytest.raises(InputError, match="outcomes of 3 seeds, resamples of 2"):
        joint.rate(torch.ones(3, 2, dtype=torch.bool), ["a", "b"], quantity="F")
    with pytest.raises(InputError, match="seeds=0"):
        JointResamples.draw(["a"], seeds=0)
