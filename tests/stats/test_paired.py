"""Differences on the same facts: value, interval, test, and families that hold together."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from unpact_lens.errors import InputError
from unpact_lens.stats.estimate import Contrast, Rate
from unpact_lens.stats.paired import (
    Outcomes,
    family_of_contrasts,
    paired_difference,
    simultaneous_differences,
    simultaneous_level,
)
from unpact_lens.stats.tests import mcnemar


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


@pytest.mark.parametrize(
    ("scores", "more", "message"),
    [
        (np.zeros((2, 0)), {}, r"scores of shape \(2, 0\); give at least one comparison"),
        (np.zeros(3), {}, r"scores of shape \(3,\); give an array \[subject, comparison\]"),
        (np.array([[1.0, np.nan]]), {}, r"shape \(1, 2\) with NaN or infinity"),
        (np.zeros((2, 2)), {"level": 1.5}, "level"),
    ],
)
def test_scores_without_a_comparison_or_with_nan_are_refused(scores, more, message):
    with pytest.raises(InputError, match=message):
        simultaneous_level(scores, **more)


def test_paired_difference_is_the_difference_of_the_rates():
    first, second = flags(1, 1, 1, 0, 0, 1), flags(1, 0, 0, 1, 0, 0)
    found = paired_difference(first, second, list("abcdef"), among=flags(1, 1, 1, 1, 1, 0))
    assert (found.both, found.only_first, found.only_second, found.neither) == (1, 2, 1, 1)
    assert found.value == pytest.approx(1 / 5)
    assert (found.n, found.clusters) == (5, 5)
    assert found.p == mcnemar(2, 1) == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_with_one_fact_a_subject_the_test_is_mcnemars(pairs):
    first, second = torch.tensor(pairs).T
    found = paired_difference(first, second, [str(i) for i in range(len(pairs))])
    assert found.p == pytest.approx(mcnemar(int((first & ~second).sum()), int((~first & second).sum())))


@pytest.mark.parametrize("copies", [1, 3])
def test_copies_of_a_5_to_0_table_have_the_p_value_of_one(copies):
    first, second = flags(*[1] * 5 + [0] * 10), flags(*[0] * 15)
    names = [str(i) for i in range(15)]
    found = paired_difference(first.expand(copies, -1), second.expand(copies, -1), names)
    assert found.p == 0.0625
    assert found == paired_difference(first, second, names)


def test_copies_of_a_fact_within_its_subject_have_the_p_value_of_one():
    first, names = flags(*[1] * 5 + [0] * 10), [str(i) for i in range(15)]
    copied = paired_difference(
        first.repeat_interleave(6), torch.zeros(90, dtype=torch.bool), [n for n in names for _ in range(6)]
    )
    assert copied.p == 0.0625
    once = paired_difference(first, torch.zeros(15, dtype=torch.bool), names)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.25)


def test_without_events_the_interval_is_that_of_zero_in_n():
    none = flags(*[0] * 35)
    found = paired_difference(none, none, [str(i) for i in range(35)])
    assert (found.low, found.high) == pytest.approx((-Rate(0, 35).high, Rate(0, 35).high))


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=24))
def test_no_interval_has_zero_width_and_swapping_mirrors_it(facts):
    first, second = torch.tensor([[a, b] for a, b, _ in facts]).T
    names = [str(s) for _, _, s in facts]
    found, swapped = paired_difference(first, second, names), paired_difference(second, first, names)
    assert found.high - found.low > 0.01
    assert (-swapped.high, -swapped.low) == pytest.approx((found.low, found.high), abs=1e-9)
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9


def test_a_difference_on_no_facts_is_undefined():
    found = paired_difference(flags(1, 0), flags(0, 0), ["a", "b"], among=flags(0, 0))
    assert found.n == 0
    assert found.p is None
    assert all(math.isnan(x) for x in (found.value, found.low, found.high))


def test_a_fact_counts_with_its_mean_over_its_seeds():
    first = torch.stack([flags(1, 1), flags(0, 0)])
    found = paired_difference(first, torch.zeros_like(first), ["a", "b"], among=torch.stack([flags(1, 1), flags(1, 0)]))
    assert found.value == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize(
    "call", [paired_difference, lambda a, b, c: simultaneous_differences({"p": Outcomes(a, b)}, c)]
)
def test_subjects_and_shapes_must_fit_the_facts(call):
    with pytest.raises(InputError, match="1 subjects for 2 facts"):
        call(flags(1, 0), flags(0, 0), ["a"])


def test_a_family_is_wider_than_its_members_and_keeps_their_own_intervals():
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(40)]
    outcomes = {k: Outcomes(torch.from_numpy(rng.random(40) < 0.4), flags(*[0] * 40)) for k in range(6)}
    found = simultaneous_differences(outcomes, names)
    for name, d in found.items():
        own = paired_difference(outcomes[name].first, outcomes[name].second, names)
        assert d.alone == own
        assert d.low < own.low < own.high < d.high
        assert own.p <= d.adjusted_p <= min(1.0, 6 * own.p + 0.01)


def test_a_family_of_one_is_its_member():
    only = Outcomes(flags(1, 1, 0, 1), flags(0, 0, 0, 1))
    found = simultaneous_differences({"p": only}, list("abcd"))["p"]
    own = paired_difference(only.first, only.second, list("abcd"))
    assert (found.low, found.high, found.adjusted_p) == (own.low, own.high, own.p)


def test_undefined_members_do_not_widen_the_family():
    two = {k: Outcomes(flags(1, 0, 1, 0), flags(0, 0, 0, 0)) for k in "pq"}
    more = {**two, "none": Outcomes(flags(1, 1, 1, 1), flags(0, 0, 0, 0), flags(0, 0, 0, 0))}
    found = simultaneous_differences(more, list("abcd"))
    assert {k: found[k] for k in two} == simultaneous_differences(two, list("abcd"))
    assert found["none"].n == 0


def test_the_level_of_a_family_is_between_that_of_one_and_sidaks():
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.normal(size=(400, 1)), 12, axis=1)
    apart = rng.normal(size=(400, 12))
    sidak = 0.95 ** (1 / 12)
    assert 0.95 <= simultaneous_level(alike) < 0.97 < simultaneous_level(apart) <= sidak
    assert simultaneous_level(apart) == pytest.approx(sidak, abs=0.0015)
    assert simultaneous_level(np.zeros((400, 12))) == pytest.approx(sidak, abs=0.0015)


def test_the_level_of_a_family_is_that_of_the_correlated_normal():
    rng = np.random.default_rng(1)
    scores = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=4000)
    from scipy.stats import norm

    c = norm.ppf((1 + simultaneous_level(scores)) / 2)
    truth = multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]]).cdf([c, c], lower_limit=[-c, -c])
    # 4000 draws of a .95 event: standard error .0035.
    assert truth == pytest.approx(0.95, abs=0.012)


def test_a_family_of_contrasts_is_bonferronis():
    one = Contrast(Rate(9, 20), Rate(1, 20))
    found = family_of_contrasts(
        {"a": one, "b": Contrast(Rate(2, 20), Rate(1, 20)), "c": Contrast(Rate(0, 0), one.second)}
    )
    assert found["a"].each_level == 1 - 0.05 / 2
    assert found["a"].adjusted_p == pytest.approx(2 * one.p)
    assert found["a"].low < one.low
    assert found["a"].alone == one
    assert found["c"].adjusted_p is None


def test_a_small_adjusted_p_beside_an_interval_that_contains_zero():
    """One fact of nine subjects comes back. The test is exact, the interval of the size is conservative."""
    subjects = [str(i // 6) for i in range(96)]
    first = torch.tensor([i % 6 == 0 and i < 54 for i in range(96)])
    none = torch.zeros(96, dtype=torch.bool)
    outcomes = {"noise": Outcomes(first, none), **{f"other {k}": Outcomes(none, none) for k in range(19)}}
    found = simultaneous_differences(outcomes, subjects)["noise"]
    assert found.p == pytest.approx(2 / 2**9)
    assert found.adjusted_p == pytest.approx(2 / 2**9)
    assert found.low < 0 < found.alone.low
