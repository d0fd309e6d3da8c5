"""The sign-flip tests are what enumerating every flip says."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpact_lens.errors import InputError
from unpact_lens.stats import sign_flip
from unpact_lens.stats.sign_flip import max_sign_flip_p, sign_flip_p


@given(st.lists(st.integers(-6, 6), max_size=9), st.sampled_from([1, 2, 3]))
def test_the_exact_p_value_is_that_of_all_flips(counts, seeds):
    differences = np.array(counts, dtype=float) / seeds
    flips = list(itertools.product([-1, 1], repeat=len(counts)))
    sums = [abs(np.dot(f, differences)) for f in flips]
    expected = np.mean([s >= abs(differences.sum()) - 1e-9 for s in sums])
    assert sign_flip_p(differences) == pytest.approx(expected)


@given(st.lists(st.tuples(*[st.integers(-6, 6)] * 3), min_size=1, max_size=7))
def test_the_adjusted_p_value_is_that_of_the_largest_statistic_over_all_flips(rows):
    table = np.array(rows, dtype=float)
    lengths = np.sqrt((table**2).sum(0))
    unit = table / np.where(lengths > 0, lengths, 1)
    seen = np.abs(unit.sum(0))
    largest = [np.abs(np.array(f) @ unit).max() for f in itertools.product([-1, 1], repeat=len(table))]
    expected = [np.mean([m >= s - 1e-9 for m in largest]) if l > 0 else 1.0 for s, l in zip(seen, lengths, strict=True)]
    assert max_sign_flip_p(table) == pytest.approx(expected)


def test_random_flips_estimate_the_enumeration(monkeypatch):
    table = np.random.default_rng(0).normal(0.5, 1, size=(12, 4))
    exact = max_sign_flip_p(table)
    monkeypatch.setattr(sign_flip, "EXACT", 5)
    # 10,000 flips: standard error at most .005.
    assert max_sign_flip_p(table) == pytest.approx(exact, abs=0.02)
    assert (max_sign_flip_p(table, seed=1) == max_sign_flip_p(table, seed=1)).all()


def test_arrays_of_another_shape_or_with_nan_are_named():
    with pytest.raises(InputError, match=r"differences of shape \(2, 0\); give an array \[subject\]"):
        sign_flip_p(np.zeros((2, 0)))
    with pytest.raises(InputError, match=r"differences of shape \(3,\); give an array \[subject, hypothesis\]"):
        max_sign_flip_p(np.zeros(3))
    with pytest.raises(InputError, match=r"shape \(1, 2\) with NaN or infinity; give finite numbers"):
        max_sign_flip_p(np.array([[np.nan, 1.0]]))


def test_nothing_to_flip_is_no_evidence():
    assert sign_flip_p(np.zeros(3)) == 1.0
    assert max_sign_flip_p(np.zeros((3, 2))).tolist() == [1.0, 1.0]
    assert sign_flip_p(np.zeros(0)) == 1.0
