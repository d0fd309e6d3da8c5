"""P-values are those of the binomial distribution and of Holm's procedure."""

import pytest

from unpact_lens.errors import InputError
from unpact_lens.stats.tests import holm, mcnemar


def test_mcnemar_is_the_binomial_of_the_discordant_pairs():
    assert mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(8, 0) == pytest.approx(2 / 2**8)


def test_holm_steps_down_and_excludes_undefined_p_values():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": None, "d": 0.03})
    assert adjusted["c"] is None
    assert [adjusted[k] for k in "abd"] == pytest.approx([0.03, 0.06, 0.06])
    assert holm({"a": None}) == {"a": None}


def test_holm_multiplies_the_smallest_by_the_number_of_comparisons_even_where_all_are_rejected():
    assert holm({"a": 1e-6, "b": 2e-6}) == {"a": pytest.approx(2e-6), "b": pytest.approx(2e-6)}
    assert holm({"a": float("nan"), "b": 0.5})["b"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["only_first", "only_second"])
def test_an_impossible_number_of_pairs_is_named(name):
    for count in (-1, 2**53 + 1):
        with pytest.raises(InputError, match=f"^{name}={count}; give a number of pairs"):
            mcnemar(**{"only_first": 0, "only_second": 0, name: count})
    assert mcnemar(2**10, 2**10) == pytest.approx(1.0)
