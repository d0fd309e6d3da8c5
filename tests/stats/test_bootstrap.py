"""Bootstrap over subjects and seeds: means and ratios."""

import math

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.stats.bootstrap import clustered_mean, mean_interval, quantiles, resampled_means


def test_clusters_must_fit_the_facts():
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
