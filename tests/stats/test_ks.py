"""The KS test gives scipy's p-value, and its logarithm where scipy underflows."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from unpact_lens.errors import InputError
from unpact_lens.stats import ks
from unpact_lens.stats.ks import ks_test


def samples(m, n, shift, decimals, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=m).round(decimals), (rng.normal(size=n) + shift).round(decimals)


@pytest.mark.parametrize("decimals", [1, 12])
@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0, 9.0])
@pytest.mark.parametrize(("m", "n"), [(5, 5), (40, 40), (400, 400), (7, 3), (90, 100), (60, 200)])
def test_statistic_and_p_are_scipys(m, n, shift, decimals):
    a, b = samples(m, n, shift, decimals)
    expected = stats.ks_2samp(a, b, method="exact")
    got = ks_test(torch.tensor(a), torch.tensor(b))
    assert got.exact
    assert got.statistic == pytest.approx(expected.statistic, abs=1e-15)
    assert got.log10_p == pytest.approx(math.log10(expected.pvalue), abs=1e-12)


@pytest.mark.parametrize(("m", "n"), [(4, 4), (5, 3), (2, 6)])
def test_p_is_the_share_of_all_interleavings_at_least_as_far_apart(m, n):
    """Brute force over every order of m and n values."""

    def distance(first):
        below = [(sum(f < i for f in first), i - sum(f < i for f in first)) for i in range(m + n + 1)]
        return max(abs(a * n - b * m) for a, b in below)

    reached = [distance(c) for c in itertools.combinations(range(m + n), m)]
    for first in list(itertools.combinations(range(m + n), m))[::7]:
        second = [i for i in range(m + n) if i not in first]
        share = sum(r >= distance(first) for r in reached) / len(reached)
        got = ks_test(torch.tensor(first, dtype=torch.double), torch.tensor(second, dtype=torch.double))
        assert got.p == pytest.approx(share, rel=1e-12)


def test_two_disjoint_samples_of_400_give_the_published_value():
    """open-unlearning prints 1.06e-239 for gradient ascent on TOFU forget10."""
    got = ks_test(torch.arange(400.0), torch.arange(400.0) + 1000)
    assert f"{got.p:.3g}" == "1.06e-239"
    assert got.log10_p == pytest.approx(math.log10(2) - math.log10(math.comb(800, 400)), abs=1e-12)


def test_log10_p_is_exact_below_the_smallest_float():
    got = ks_test(torch.arange(3000.0), torch.arange(3000.0) + 1e6)
    assert got.p == 0.0
    assert got.log10_p == pytest.approx(math.log10(2) - math.log10(math.comb(6000, 3000)), rel=1e-12)


@pytest.mark.parametrize(("m", "n"), [(5, 5), (40, 40), (7, 3), (90, 100)])
def test_the_count_of_paths_agrees_with_scipy(m, n):
    for shift in (0.2, 1.0):
        a, b = samples(m, n, shift, 12)
        found = ks_test(torch.tensor(a), torch.tensor(b))
        counted = ks._exact_log10_p(m, n, round(found.statistic * m * n))
        assert found.log10_p == pytest.approx(counted, abs=1e-12)


def test_log10_p_of_unequal_samples_is_exact_where_scipy_overflows():
    got = ks_test(torch.arange(600.0), torch.arange(700.0) + 1e6)
    assert got.exact
    assert got.log10_p == pytest.approx(math.log10(2) - math.log10(math.comb(1300, 600)), rel=1e-12)


def test_a_sample_does_not_differ_from_itself():
    sample = torch.tensor([0.3, 0.1, 0.1, float("inf")])
    assert (ks_test(sample, sample).statistic, ks_test(sample, sample).p) == (0.0, 1.0)


def test_large_unequal_samples_use_kolmogorovs_limit(monkeypatch):
    monkeypatch.setattr(ks, "EXACT_CELLS", 10)
    for shift in (0.0, 0.3, 1.0):
        a, b = samples(300, 310, shift, 12)
        got = ks_test(torch.tensor(a), torch.tensor(b))
        limit = stats.kstwobign.logsf(got.statistic * math.sqrt(300 * 310 / 610)) / math.log(10)
        assert not got.exact
        assert got.log10_p == pytest.approx(limit, abs=1e-9)


@pytest.mark.parametrize(
    ("sample", "message"), [([], "first sample of the KS test is empty"), ([1.0, math.nan], "first .* contains NaN")]
)
def test_errors_name_the_bad_sample(sample, message):
    with pytest.raises(InputError, match=message):
        ks_test(torch.tensor(sample), torch.tensor([1.0]))
