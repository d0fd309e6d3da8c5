"""Bootstrap over subjects and seeds: means, ratios and paired differences."""

import math

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.stats.bootstrap import clustered_mean, mean_interval, paired_difference, quantiles, resampled_means
from unpact_lens.stats.estimate import Rate
from unpact_lens.stats.tests import mcnemar


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_paired_difference_is_the_difference_of_the_rates():
    first, second = flags(1, 1, 1, 0, 0, 1), flags(1, 0, 0, 1, 0, 0)
    found = paired_difference(first, second, list("abcdef"), among=flags(1, 1, 1, 1, 1, 0))
    assert (found.both, found.only_first, found.only_second, found.neither) == (1, 2, 1, 1)
    assert found.value == pytest.approx(1 / 5)
    assert (found.n, found.clusters) == (5, 5)
    assert found.p == mcnemar(2, 1) == 1.0


def test_without_events_the_interval_is_that_of_zero_in_n():
    none = flags(*[0] * 35)
    found = paired_difference(none, none, [str(i) for i in range(35)])
    assert found.bootstrap == (0, 0)
    assert (found.low, found.high) == pytest.approx((-Rate(0, 35).high, Rate(0, 35).high))


def test_a_difference_on_no_facts_is_undefined():
    found = paired_difference(flags(1, 0), flags(0, 0), ["a", "b"], among=flags(0, 0))
    assert found.n == 0
    assert found.p is None
    assert all(math.isnan(x) for x in (found.value, found.low, found.high))


def test_facts_about_one_subject_are_resampled_together():
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


def test_a_fact_counts_with_its_mean_over_its_seeds():
    first = torch.stack([flags(1, 1), flags(0, 0)])
    second = torch.zeros_like(first)
    found = paired_difference(first, second, ["a", "b"], among=torch.stack([flags(1, 1), flags(1, 0)]))
    assert found.value == pytest.approx((0.5 + 1) / 2)


def test_the_bootstrap_is_reproducible_by_seed():
    first, second = flags(1, 0, 1, 1, 0, 1, 0), flags(0, 1, 0, 0, 0, 1, 0)
    a, b, c = (paired_difference(first, second, list("abcdefg"), seed=s) for s in (1, 1, 2))
    assert a == b
    assert (a.only_first, a.p) == (c.only_first, c.p)


def test_the_interval_covers_the_truth_at_about_its_level():
    generator = torch.Generator().manual_seed(0)
    covered, runs, subjects = 0, 300, 25
    for run in range(runs):
        # Two dependent facts for each subject; the true difference is 0.4 − 0.2.
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


def test_the_interval_of_a_mean_resamples_subjects():
    values = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert mean_interval(values, ["a", "a", "b", "b"]) == (0.0, 1.0)
    assert all(math.isnan(x) for x in mean_interval(torch.zeros(0), []))
    assert mean_interval(torch.full((5,), 0.3), list("abcde")) == pytest.approx((0.3, 0.3))


def test_resampled_means_draw_subjects_and_seeds():
    values = torch.tensor([[0.0, 2.0, math.nan], [4.0, 2.0, math.nan]])
    drawn = resampled_means(values, ["a", "b", "c"], draws=20000)
    # One seed is drawn twice, or each once: subject a is then 0, 2 or 4, subject b is 2, subject c has no number.
    assert set(drawn[~drawn.isnan()].tolist()) <= {k * 2 / 3 for k in range(7)} | {0.0, 1.0, 2.0, 3.0, 4.0}
    assert float(drawn.isnan().double().mean()) == pytest.approx(1 / 27, abs=0.005)
    assert float(drawn.nanmean()) == pytest.approx(2, abs=0.03)
    constant = resampled_means(torch.ones(2, 3), ["a", "b", "c"])
    assert constant.tolist() == [1.0] * len(constant)


def test_equal_clusters_give_equal_resamples():
    values, names = torch.arange(1.0, 7.0).reshape(2, 3), ["a", "b", "b"]
    ratio = resampled_means(3 * values, names, seed=1) / resampled_means(values, names, seed=1)
    assert quantiles(ratio) == pytest.approx((3, 3))


def test_quantiles_exclude_nan():
    draws = torch.tensor([math.nan, *range(101)], dtype=torch.float64)
    assert quantiles(draws, 0.9) == pytest.approx((5, 95))
    assert all(math.isnan(x) for x in quantiles(torch.full((4,), math.nan)))
    with pytest.raises(InputError, match="1 subjects for 2 facts"):
        resampled_means(torch.zeros(2), ["a"])


def test_both_ways_of_drawing_give_the_same_distribution():
    values, names = torch.linspace(0, 1, 12, dtype=torch.float64), [str(i // 2) for i in range(12)]
    by_counts = mean_interval(values, names, draws=20000)
    mean, *one_by_one, n = clustered_mean(values, names, 0.95, 20000, seed=0).tolist()
    assert (mean, n) == (pytest.approx(0.5), 12)
    # The standard error of a quantile of 20,000 draws is below 0.003 here.
    assert one_by_one == pytest.approx(by_counts, abs=0.01)
