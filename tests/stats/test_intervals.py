"""Score intervals of proportions are what the closed forms and the published examples say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpact_lens.stats.intervals import paired_score_interval, wilson

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
