"""P-values are those of the binomial distribution and of Holm's procedure."""

import pytest

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
