"""Facts about one subject, and copies of a seed, count as fewer facts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.special import betaln

from unpact_lens.errors import InputError
from unpact_lens.stats.clusters import design_effect, effective_n, intraclass_correlation
from unpact_lens.stats.estimate import Rate
from unpact_lens.stats.intervals import wilson


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_the_icc_is_the_quantile_of_the_integrated_posterior():
    events, sizes = (6, 0, 5), (6, 6, 6)

    def density(p: float, rho: float) -> float:
        a, b = p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho
        likelihood = sum(betaln(a + e, b + n - e) - betaln(a, b) for e, n in zip(events, sizes, strict=True))
        return math.exp(likelihood) / math.sqrt(p * (1 - p))

    def mass(until: float) -> float:
        return dblquad(density, 1e-4, until, 1e-4, 1 - 1e-4, epsabs=1e-9)[0]

    found = intraclass_correlation(events, sizes, 0.75)
    # The posterior is evaluated on a grid of 40 rates and 20 ICCs.
    assert mass(found) / mass(1 - 1e-4) == pytest.approx(0.75, abs=0.02)


def test_the_icc_of_alike_facts_is_high_and_of_independent_facts_low():
    assert intraclass_correlation([6, 0] * 10, [6] * 20) > 0.9
    assert intraclass_correlation([3] * 20, [6] * 20) < 0.1
    assert intraclass_correlation([0] * 20, [6] * 20) > 0.5  # no event says nothing about the ICC


@pytest.mark.parametrize(("events", "quantile", "message"), [([7], 0.5, "7 events in 6"), ([1], 1.0, "quantile=1.0")])
def test_impossible_arguments_are_refused(events, quantile, message):
    with pytest.raises(InputError, match=message):
        intraclass_correlation(events, [6], quantile)


def test_facts_of_one_subject_each_give_plain_wilson():
    happened = flags(*[1] * 7 + [0] * 13)
    found = Rate.of(happened, [str(i) for i in range(20)])
    assert (found.low, found.high) == wilson(7, 20)
    assert found == Rate(7, 20)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_rate_is_never_narrower_than_the_binomial(subjects):
    happened = torch.tensor([x for facts in subjects for x in facts])
    names = [str(i) for i, facts in enumerate(subjects) for _ in facts]
    found = Rate.of(happened, names)
    low, high = wilson(int(happened.sum()), len(happened))
    assert 0 <= found.low <= low + 1e-9 <= high <= found.high + 1e-9 <= 1 + 2e-9
    assert 1 <= found.effective_n <= found.n
    assert found.low <= found.value <= found.high


@given(st.lists(st.integers(0, 6), min_size=1, max_size=10), st.integers(2, 4))
def test_copies_of_a_seed_change_nothing(counts, copies):
    once = torch.tensor([i < c for c in counts for i in range(6)])
    names = [str(i) for i in range(len(counts)) for _ in range(6)]
    assert Rate.of(once.expand(copies, -1), names) == Rate.of(once, names)


def test_no_event_in_clustered_facts_has_no_narrow_interval():
    # 0 of 96 facts about 16 subjects: if a subject's facts stand and fall together, they are 0 of 16.
    found = Rate.of(torch.zeros(96, dtype=torch.bool), [str(i // 6) for i in range(96)])
    assert found.low == 0
    assert Rate(0, 96).high < 0.04 < 0.1 < found.high < Rate(0, 16).high


def test_seeds_that_differ_widen_the_interval():
    alike = torch.stack([flags(*[1] * 10 + [0] * 10)] * 3)
    apart = torch.stack([flags(*[1] * 20), flags(*[1] * 10 + [0] * 10), flags(*[0] * 20)])
    names = [str(i) for i in range(20)]
    one, other = Rate.of(alike, names), Rate.of(apart, names)
    assert one.value == other.value == 0.5
    assert one.seed_variance == 0 < other.seed_variance
    # Three seed means of 0, .5 and 1: a t interval of 2 degrees of freedom covers all of [0, 1].
    assert other.high - other.low > 0.75 > 0.45 > one.high - one.low


def test_design_effect_counts_only_what_counts():
    happened, names = flags(1, 1, 0, 0, 1, 0), list("aabbcc")
    every_second = flags(1, 0, 1, 0, 1, 0)
    assert design_effect(happened, names, among=every_second) == 1.0
    assert design_effect(happened, names) > 1.0
    with pytest.raises(InputError, match="1 subjects for 2 facts"):
        design_effect(flags(1, 0), ["a"])
    with pytest.raises(InputError, match=r"shape \(2,\) but among=\(3,\)"):
        design_effect(flags(1, 0), ["a", "b"], among=flags(1, 1, 1))


def test_the_effective_number_is_the_number_over_both_variances():
    assert effective_n(100, 2.0, 0.0, 0.25) == 50
    assert effective_n(100, 2.0, 0.005, 0.25) == pytest.approx(25)
    assert effective_n(100, 500.0, 0.0, 0.25) == 1
    assert effective_n(0, 2.0, 0.0, 0.25) == 0
