"""Score intervals of proportions are what the closed forms and the published examples say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpact_lens.errors import InputError
from unpact_lens.stats.intervals import newcombe, paired_score_interval, require_level, wilson

Z = 1.959963984540054


@pytest.mark.parametrize(("count", "n"), [(0, 35), (3, 10), (7, 7), (1, 200)])
def test_wilson_is_its_closed_form(count, n):
    p = count / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    assert wilson(count, n) == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-12)


def test_paired_score_interval_is_newcombes_published_example():
    # Newcombe 1998, Statistics in Medicine 17:2635, example with cells 36, 12, 2, 0, method 10.
    assert paired_score_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(st.tuples(*[st.integers(0, 12)] * 4).filter(lambda cells: sum(cells) > 0))
def test_paired_score_interval_mirrors_when_the_two_are_swapped(cells):
    both, first, second, neither = cells
    low, high = paired_score_interval(both, first, second, neither)
    assert paired_score_interval(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)
    assert -1 - 1e-9 <= low <= (first - second) / sum(cells) <= high <= 1 + 1e-9


CELLS = [
    (20, 6, 4, 30), (3, 3, 2, 3), (3, 2, 2, 3), (2, 9, 8, 1), (5, 5, 0, 0), (1, 0, 0, 1), (0, 1, 1, 0),
    (2.5, 1.0, 0.5, 6.0),
]  # fmt: skip
"""The product of the concordant cells exceeds that of the discordant by more than n / 2, by less, not at all, …"""


def test_paired_score_interval_is_its_formula_with_the_corrected_correlation():
    for both, first, second, neither in CELLS:
        n = both + first + second + neither
        p1, p2 = (both + first) / n, (both + second) / n
        (l1, u1), (l2, u2) = wilson(both + first, n), wilson(both + second, n)
        cross = both * neither - first * second
        corrected = max(cross - n / 2, 0) if cross > 0 else cross
        margins = (both + first) * (second + neither) * (both + second) * (first + neither)
        phi = corrected / math.sqrt(margins) if margins else 0
        low = p1 - p2 - math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
        high = p1 - p2 + math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
        assert paired_score_interval(both, first, second, neither) == pytest.approx((low, high), abs=1e-12)


def test_the_level_of_an_interval_is_used_and_checked():
    assert wilson(3, 10, 0.9)[0] > wilson(3, 10)[0]
    assert paired_score_interval(3, 2, 1, 4, 0.9)[1] < paired_score_interval(3, 2, 1, 4)[1]
    require_level(0.5)
    for level in (0, 1, -0.1, 1.1, math.nan):
        with pytest.raises(InputError, match=f"level={level}; a confidence level lies between 0 and 1"):
            require_level(level)


def test_no_trials_have_no_interval_and_one_trial_has():
    assert all(math.isnan(end) for end in wilson(0, 0))
    low, high = wilson(1, 1)
    assert 0 < low < high == 1


def test_newcombe_is_its_formula():
    low, high = newcombe(0.5, (0.3, 0.6), 0.2, (0.05, 0.45))
    assert low == pytest.approx(0.3 - math.hypot(0.2, 0.25))
    assert high == pytest.approx(0.3 + math.hypot(0.1, 0.15))
