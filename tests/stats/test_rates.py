"""Rates, differences and their intervals are what the closed forms and the published examples say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from unpact_lens.errors import InputError
from unpact_lens.results import load, save
from unpact_lens.stats.bootstrap import mean_interval, quantiles, resampled_means
from unpact_lens.stats.rates import (
    Contrast,
    MeanRate,
    Rate,
    holm,
    lost,
    mcnemar,
    paired_difference,
    paired_score_interval,
    wilson,
)

Z = 1.959963984540054


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


@pytest.mark.parametrize(("count", "n"), [(0, 35), (3, 10), (7, 7), (1, 200)])
def test_wilson_is_its_closed_form(count, n):
    p = count / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    assert wilson(count, n) == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-12)


def test_zero_events_certify_a_tenth_with_35_facts_and_not_with_34():
    assert Rate(0, 35).high <= 0.1 < Rate(0, 34).high


def test_a_rate_of_nothing_is_undefined_and_not_zero():
    rate = Rate(0, 0)
    assert all(math.isnan(x) for x in (rate.value, rate.low, rate.high))
    assert str(rate) == "undefined"


@pytest.mark.parametrize(("count", "n"), [(3, 2), (-1, 2)])
def test_an_impossible_rate_is_refused(count, n):
    with pytest.raises(InputError, match=f"a rate of {count} in {n}"):
        Rate(count, n)


def test_lost_counts_only_what_was_right_before():
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


def test_the_mean_is_undefined_when_a_part_is():
    mean = MeanRate((Rate(1, 2), Rate(0, 0)))
    assert mean.n == 0
    assert math.isnan(mean.value)
    assert math.isnan(mean.high)


def test_paired_score_interval_is_newcombes_published_example():
    # Newcombe 1998, Statistics in Medicine 17:2635, example with cells 36, 12, 2, 0, method 10.
    assert paired_score_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(st.tuples(*[st.integers(0, 12)] * 4).filter(lambda cells: sum(cells) > 0))
def test_paired_score_interval_mirrors_when_the_two_are_swapped(cells):
    both, first, second, neither = cells
    low, high = paired_score_interval(both, first, second, neither)
    assert paired_score_interval(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)
    assert -1 - 1e-9 <= low <= (first - second) / sum(cells) <= high <= 1 + 1e-9


def test_contrast_is_the_newcombe_interval_of_a_peer():
    contrast = Contrast(Rate(7, 20), Rate(2, 31))
    peer = confint_proportions_2indep(7, 20, 2, 31, method="newcomb")
    assert (contrast.low, contrast.high) == pytest.approx(peer, abs=1e-9)
    assert math.isnan(Contrast(Rate(1, 2), Rate(0, 0)).low)


def test_paired_difference_is_the_difference_of_the_rates():
    first, second = flags(1, 1, 1, 0, 0, 1), flags(1, 0, 0, 1, 0, 0)
    found = paired_difference(first, second, list("abcdef"), among=flags(1, 1, 1, 1, 1, 0))
    assert (found.both, found.only_first, found.only_second, found.neither) == (1, 2, 1, 1)
    assert found.value == pytest.approx(1 / 5)
    assert (found.n, found.clusters) == (5, 5)
    assert found.p == mcnemar(2, 1) == 1.0


def test_no_event_on_either_side_has_the_interval_of_zero_in_n():
    none = flags(*[0] * 35)
    found = paired_difference(none, none, [str(i) for i in range(35)])
    assert found.bootstrap == (0, 0)
    assert (found.low, found.high) == pytest.approx((-Rate(0, 35).high, Rate(0, 35).high))


def test_a_difference_on_no_facts_is_undefined():
    found = paired_difference(flags(1, 0), flags(0, 0), ["a", "b"], among=flags(0, 0))
    assert found.n == 0
    assert found.p is None
    assert all(math.isnan(x) for x in (found.value, found.low, found.high))


def test_facts_of_one_subject_are_one_draw():
    first, second = flags(*[1, 0, 1, 1, 0, 0, 1, 0, 1, 1]), flags(*[0] * 10)
    names = [str(i) for i in range(10)]
    once = paired_difference(first, second, names)
    copied = paired_difference(
        first.repeat_interleave(6), second.repeat_interleave(6), [n for n in names for _ in "123456"]
    )
    assert copied.bootstrap == pytest.approx(once.bootstrap)
    assert copied.high - copied.low == pytest.approx(once.bootstrap[1] - once.bootstrap[0])
    apart = paired_difference(first.repeat_interleave(6), second.repeat_interleave(6), [str(i) for i in range(60)])
    assert apart.high - apart.low < 0.6 * (copied.high - copied.low)


def test_seeds_that_agree_add_no_facts():
    first, second = flags(1, 0, 1, 1, 0, 0, 1, 0), flags(0, 1, 0, 0, 0, 0, 0, 0)
    names = list("abcdefgh")
    one = paired_difference(first, second, names)
    three = paired_difference(first.expand(3, -1), second.expand(3, -1), names)
    assert (three.n, three.value) == (one.n, one.value)
    assert three.bootstrap == pytest.approx(one.bootstrap, abs=0.13)


def test_a_fact_counts_with_its_mean_over_the_seeds_that_have_it():
    first = torch.stack([flags(1, 1), flags(0, 0)])
    second = torch.zeros_like(first)
    found = paired_difference(first, second, ["a", "b"], among=torch.stack([flags(1, 1), flags(1, 0)]))
    assert found.value == pytest.approx((0.5 + 1) / 2)


def test_the_bootstrap_is_reproducible_by_seed():
    first, second = flags(1, 0, 1, 1, 0, 1, 0), flags(0, 1, 0, 0, 0, 1, 0)
    a, b, c = (paired_difference(first, second, list("abcdefg"), seed=s) for s in (1, 1, 2))
    assert a == b
    assert (a.only_first, a.p) == (c.only_first, c.p)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered, runs, subjects = 0, 300, 25
    for run in range(runs):
        # Two facts a subject that share its luck: the true difference is .4 − .2.
        luck = torch.rand(subjects, 2, generator=generator).repeat_interleave(2, 0)
        names = [str(i // 2) for i in range(2 * subjects)]
        found = paired_difference(luck[:, 0] < 0.4, luck[:, 1] < 0.2, names, draws=200, seed=run)
        covered += found.low <= 0.2 <= found.high
    # 300 draws of a .95 event fall below .91 with probability 1e-3.
    assert covered / runs >= 0.91


def test_clusters_must_fit_the_facts():
    with pytest.raises(InputError, match="1 subjects for 2 facts"):
        paired_difference(flags(1, 0), flags(0, 0), ["a"])
    with pytest.raises(InputError, match="1 subjects for 2 facts"):
        mean_interval(torch.zeros(2), ["a"])


def test_mcnemar_is_the_binomial_of_the_discordant_pairs():
    assert mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(8, 0) == pytest.approx(2 / 2**8)


def test_holm_steps_down_and_leaves_the_undefined_out():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": None, "d": 0.03})
    assert adjusted["c"] is None
    assert [adjusted[k] for k in "abd"] == pytest.approx([0.03, 0.06, 0.06])
    assert holm({"a": None}) == {"a": None}


def test_the_interval_of_a_mean_resamples_subjects():
    values = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert mean_interval(values, ["a", "a", "b", "b"]) == (0.0, 1.0)
    assert all(math.isnan(x) for x in mean_interval(torch.zeros(0), []))
    assert mean_interval(torch.full((5,), 0.3), list("abcde")) == pytest.approx((0.3, 0.3))


def test_more_facts_of_the_same_kind_narrow_every_interval():
    difference = paired_difference(flags(1, 0, 1, 1, 0, 1, 0), flags(0, 1, 0, 0, 0, 1, 0), list("abcdefg"))
    for estimate in (Rate(3, 10), MeanRate((Rate(3, 10), Rate(1, 9))), Contrast(Rate(3, 10), Rate(1, 9)), difference):
        assert estimate.interval(estimate.n) == (estimate.low, estimate.high)
        low, high = estimate.interval(100 * estimate.n)
        assert estimate.low < low < estimate.value < high < estimate.high
        assert high - low == pytest.approx((estimate.high - estimate.low) / 10, rel=0.35)


def test_estimates_may_stand_in_a_saved_result(tmp_path):
    from unpact_lens.evaluation.verdict import verdict

    judged = verdict(Rate(0, 0), MeanRate((Rate(0, 0), Rate(1, 2))), {})
    assert math.isnan(judged.distance)
    save(judged, tmp_path / "v")
    assert load(tmp_path / "v") == judged


def test_resampled_means_draw_subjects_and_seeds():
    values = torch.tensor([[0.0, 2.0, math.nan], [4.0, 2.0, math.nan]])
    drawn = resampled_means(values, ["a", "b", "c"], draws=20000)
    # A seed is drawn twice, or each once: subject a is then 0, 2 or 4, subject b always 2, subject c has no number.
    assert set(drawn[~drawn.isnan()].tolist()) <= {k * 2 / 3 for k in range(7)} | {0.0, 1.0, 2.0, 3.0, 4.0}
    assert float(drawn.isnan().double().mean()) == pytest.approx(1 / 27, abs=0.005)
    assert float(drawn.nanmean()) == pytest.approx(2, abs=0.03)
    constant = resampled_means(torch.ones(2, 3), ["a", "b", "c"])
    assert constant.tolist() == [1.0] * len(constant)


def test_equal_clusters_draw_alike_so_that_ratios_can_be_resampled():
    values, names = torch.arange(1.0, 7.0).reshape(2, 3), ["a", "b", "b"]
    ratio = resampled_means(3 * values, names, seed=1) / resampled_means(values, names, seed=1)
    assert quantiles(ratio) == pytest.approx((3, 3))


def test_quantiles_leave_the_undefined_out():
    draws = torch.tensor([math.nan, *range(101)], dtype=torch.float64)
    assert quantiles(draws, 0.9) == pytest.approx((5, 95))
    assert all(math.isnan(x) for x in quantiles(torch.full((4,), math.nan)))
    with pytest.raises(InputError, match="1 subjects for 2 facts"):
        resampled_means(torch.zeros(2), ["a"])


def test_a_mean_rate_takes_rates_over_seeds():
    gone = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    part = paired_difference(gone, torch.zeros_like(gone), list("abcd"))
    mean = MeanRate((part, part))
    assert (mean.value, mean.n) == (pytest.approx(0.375), 8)
    assert mean.low < 0.375 < mean.high
