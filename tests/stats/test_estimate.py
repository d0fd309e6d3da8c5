"""Rates, their means and their differences have the values and intervals of their definitions."""

import math

import pytest
import torch
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from unpact_lens.errors import InputError
from unpact_lens.results import load, save
from unpact_lens.stats.bootstrap import clustered_mean
from unpact_lens.stats.estimate import Contrast, Estimate, MeanRate, PlainEstimate, Rate, lost
from unpact_lens.stats.intervals import wilson
from unpact_lens.stats.paired import paired_difference


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_zero_events_certify_a_tenth_with_35_facts_and_not_with_34():
    assert Rate(0, 35).high <= 0.1 < Rate(0, 34).high


def test_a_rate_of_no_trials_is_undefined_and_not_zero():
    rate = Rate(0, 0)
    assert all(math.isnan(x) for x in (rate.value, rate.low, rate.high))
    assert str(rate) == "undefined"


@pytest.mark.parametrize(("count", "n"), [(3, 2), (-1, 2)])
def test_an_impossible_rate_is_refused(count, n):
    with pytest.raises(InputError, match=f"a rate of {count} in {n}"):
        Rate(count, n)


def test_lost_counts_only_facts_right_before():
    assert lost(flags(1, 1, 1, 0, 0), flags(0, 1, 0, 0, 1)) == Rate(2, 3)
    assert lost(flags(0, 0), flags(1, 0)).n == 0


def test_lost_refuses_outcomes_of_different_facts():
    # Where shapes are checked at run time, that check speaks first.
    with pytest.raises((InputError, TypeError), match=r"shape \(2,\) and \(3,\) cannot be paired|'right_after'"):
        lost(flags(1, 1), flags(1, 1, 1))


def test_the_mean_of_one_rate_is_that_rate():
    one, mean = Rate(3, 20), MeanRate((Rate(3, 20),))
    assert (mean.value, mean.low, mean.high) == pytest.approx((one.value, one.low, one.high))


def test_the_mean_of_two_rates_has_their_wilson_variances_added():
    near, far = Rate(4, 20), Rate(1, 30)
    mean = MeanRate((near, far))
    assert mean.value == pytest.approx((near.value + far.value) / 2)
    assert mean.high - mean.value == pytest.approx(0.5 * math.hypot(near.high - near.value, far.high - far.value))
    assert mean.value - mean.low == pytest.approx(0.5 * math.hypot(near.value - near.low, far.value - far.low))


def test_a_mean_of_rates_on_the_same_subjects_is_wider():
    near, far = Rate(4, 20), Rate(1, 30)
    apart, same = MeanRate.of([near, far], [["a", "b"], ["c"]]), MeanRate.of([near, far], [["a", "b"], ["a", "b"]])
    assert apart == MeanRate((near, far))
    assert same.correlation == pytest.approx(1)
    assert same.high - same.value == pytest.approx(0.5 * (near.high - near.value + far.high - far.value))
    half = MeanRate.of([near, far], [["a", "b"], ["b", "c"]])
    assert half.correlation == pytest.approx(0.5)
    assert apart.high < half.high < same.high
    seeds = Rate(4, 20, seed_variance=0.01)
    assert MeanRate.of([seeds, far], [["a"], ["b"]]).correlation == 1


def test_the_mean_is_undefined_when_a_part_is():
    mean = MeanRate((Rate(1, 2), Rate(0, 0)))
    assert mean.n == 0
    assert math.isnan(mean.value)
    assert math.isnan(mean.high)


def test_contrast_is_the_newcombe_interval_of_a_peer():
    contrast = Contrast(Rate(7, 20), Rate(2, 31))
    peer = confint_proportions_2indep(7, 20, 2, 31, method="newcomb")
    assert (contrast.low, contrast.high) == pytest.approx(peer, abs=1e-9)
    assert math.isnan(Contrast(Rate(1, 2), Rate(0, 0)).low)


def test_more_facts_of_the_same_kind_narrow_every_interval():
    difference = paired_difference(flags(1, 0, 1, 1, 0, 1, 0), flags(0, 1, 0, 0, 0, 1, 0), list("abcdefg"))
    for estimate in (Rate(3, 10), MeanRate((Rate(3, 10), Rate(1, 9))), Contrast(Rate(3, 10), Rate(1, 9)), difference):
        assert estimate.interval(estimate.n) == (estimate.low, estimate.high)
        low, high = estimate.interval(100 * estimate.n)
        assert estimate.low < low < estimate.value < high < estimate.high
        assert high - low == pytest.approx((estimate.high - estimate.low) / 10, rel=0.35)


def test_estimates_are_saved_inside_a_result(tmp_path):
    from unpact_lens.evaluation.verdict import verdict

    judged = verdict(Rate(0, 0), MeanRate((Rate(0, 0), Rate(1, 2))), {})
    assert math.isnan(judged.distance)
    save(judged, tmp_path / "v")
    assert load(tmp_path / "v") == judged


def test_a_mean_rate_takes_rates_over_seeds():
    gone = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    part = paired_difference(gone, torch.zeros_like(gone), list("abcd"))
    mean = MeanRate((part, part))
    assert (mean.value, mean.n) == (pytest.approx(0.375), 8)
    assert mean.low < 0.375 < mean.high


def test_a_row_of_the_bootstrap_is_an_estimate():
    row = clustered_mean(torch.tensor([0.0, 0.5, 1.0, 0.5]), list("abcd"), 0.9, 400, seed=0)
    estimate = PlainEstimate.of(row, level=0.9)
    assert isinstance(estimate, Estimate)
    assert list(estimate.row().values()) == row.tolist()
    assert (estimate.level, estimate.p) == (0.9, None)
    low, high = estimate.interval(400)
    assert high - low == pytest.approx((estimate.high - estimate.low) / 10)


def test_every_estimate_gives_the_same_columns():
    for estimate in (Rate(3, 10), MeanRate((Rate(3, 10), Rate(1, 9))), Contrast(Rate(3, 10), Rate(1, 9))):
        assert estimate.row() == {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
        assert (estimate.level, estimate.adjusted_p) == (0.95, None)
        assert estimate.alone == estimate


def test_the_p_value_of_a_contrast_is_that_of_the_pooled_score_test_of_a_peer():
    for first, second in ((Rate(7, 20), Rate(2, 31)), (Rate(3, 10), Rate(9, 10))):
        peer = proportions_ztest([first.count, second.count], [first.n, second.n])[1]
        assert Contrast(first, second).p == pytest.approx(peer, abs=1e-12)
    clustered = Contrast(Rate(14, 40, design_effect=2), Rate(4, 62, design_effect=2))
    assert clustered.p == pytest.approx(Contrast(Rate(7, 20), Rate(2, 31)).p)
    assert Contrast(Rate(0, 9), Rate(0, 4)).p == 1.0
    assert Contrast(Rate(1, 2), Rate(0, 0)).p is None
    assert Contrast(Rate(1, 2), Rate(0, 0)).n == 0


def test_seeds_that_disagree_make_facts_worth_less():
    rate = Rate(5, 20, design_effect=1.5, seed_variance=0.01)
    assert rate.effective_n == pytest.approx(20 / (1.5 + 20 * 0.01 / (0.25 * 0.75)))
    assert (rate.low, rate.high) == pytest.approx(wilson(0.25 * rate.effective_n, rate.effective_n))
    assert Rate(0, 0).effective_n == 0
    assert paired_difference(flags(), flags(), []).effective_n == 0


def test_the_correlation_of_a_mean_is_the_largest_of_its_pairs():
    rates = [Rate(4, 20), Rate(1, 30), Rate(2, 25)]
    assert MeanRate.of(rates, [["a", "b"], ["b", "c"], ["d"]]).correlation == pytest.approx(0.5)
    assert MeanRate.of(rates[:2], [["a"], []]).correlation == 0
    assert MeanRate.of(rates[:1], [["a"]]).correlation == 0


def test_lost_takes_one_seed_in_a_row_of_its_own():
    before, after = flags(1, 1, 0), flags(0, 1, 0)
    assert lost(before, after[None]) == lost(before, after)
