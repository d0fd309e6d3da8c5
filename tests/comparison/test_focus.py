"""Focus measures equal values computed by hand on known contributions."""

import math

import numpy as np
import pytest
import torch

from tests.attribution.examples import attribution
from unpact_lens import results
from unpact_lens.attribution import Share, TopK
from unpact_lens.comparison.focus import MEASURES, entropy, focus, rank, subject_rows
from unpact_lens.errors import InputError
from unpact_lens.stats.bootstrap import clustered_mean, clustered_means

TOKENS = ["Where", " was", " Ann", " Lee", " born", "?"]
BEFORE = attribution(TOKENS, [0.0, -1.0, 3.0, 2.0, 5.0, 0.0], subject="Ann Lee")
AFTER = attribution(TOKENS, [2.0, -1.0, 1.0, 0.5, 4.0, 0.5], subject="Ann Lee")


def test_each_measure_equals_its_formula():
    found = {k: v.item() for k, v in focus([BEFORE], [AFTER], TopK(3)).measures.items()}
    # KeyTokens: born, Ann, Lee before; born, Where, Ann after.
    assert found["overlap"] == 2 / 4
    assert found["mass_before"] == 1.0
    assert found["mass_after"] == 5.5 / 8
    assert found["mass_shift"] == 5.5 / 8 - 1
    p = np.array([1, 3, 2, 5]) / 11
    assert found["entropy_before"] == pytest.approx(-(p * np.log(p)).sum())
    assert (found["subject_rank_before"], found["subject_rank_after"], found["subject_rank_shift"]) == (2, 3, 1)
    assert (found["subject_score_before"], found["subject_score_after"]) == (5.0, 1.5)
    # Pearson's correlation of the ranks, ties shared.
    a, b = [2.5, 1, 5, 4, 6, 2.5], [5, 1, 4, 2.5, 6, 2.5]
    assert found["spearman"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert set(found) == set(MEASURES)


def test_a_model_against_itself_has_no_shift():
    found = focus([BEFORE], [BEFORE]).measures
    assert found["spearman"] == pytest.approx(1)
    assert found["overlap"] == 1
    assert all(found[k] == 0 for k in MEASURES if k.endswith("_shift"))


def test_the_subject_is_found_whole_or_by_its_words():
    assert subject_rows(BEFORE) == (2, 3)
    assert subject_rows(attribution(TOKENS, [0.0] * 6, subject="Ann Smith")) == (2,)
    assert subject_rows(attribution(TOKENS, [0.0] * 6, subject="An")) == ()
    assert subject_rows(attribution(TOKENS, [0.0] * 6)) == ()
    # "Lee" alone elsewhere is not the subject where the whole name stands.
    longer = [*TOKENS, " Lee"]
    assert subject_rows(attribution(longer, [0.0] * 7, subject="ann lee")) == (2, 3)


def test_undefined_measures_are_nan_and_excluded_from_the_mean():
    flat = attribution(TOKENS, [0.0] * 6)
    found = focus([flat, BEFORE], [flat, AFTER], Share(0.5))
    for name in ("spearman", "overlap", "mass_before", "entropy_before", "subject_rank_before"):
        assert math.isnan(found.measures[name][0])
        assert found.means[name][3] == 1
        assert found.means[name][0] == found.measures[name][1]


def test_entropy_is_between_0_and_the_log_of_the_number_of_units():
    assert entropy(torch.tensor([0.0, -4.0, 0.0])) == 0
    assert entropy(torch.tensor([2.0, -2.0, 2.0])) == pytest.approx(math.log(3))


def test_units_with_equal_contributions_share_their_rank():
    scores = torch.tensor([1.0, 3.0, 1.0])
    assert [rank(scores, i) for i in range(3)] == [2.5, 1.0, 2.5]


def test_the_bootstrap_draws_whole_subjects():
    values = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    mean, low, high, n = clustered_mean(values, ["a", "a", "b", "b"], 0.95, 4000, seed=0).tolist()
    assert (mean, low, high, n) == (0.5, 0.0, 1.0, 4)
    # Two clusters of equal mean: nothing moves, however the items differ.
    assert clustered_mean(values, ["a", "b", "a", "b"], 0.95, 500, seed=0).tolist() == [0.5, 0.5, 0.5, 4]
    assert clustered_mean(values, ["a"] * 4, 0.95, 500, seed=0).isnan().tolist() == [False, True, True, False]


def test_each_column_equals_its_own_mean_and_interval():
    values = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[2, 1] = float("nan")
    clusters = ["a", "a", "b", "c", "c", "d"]
    together = clustered_means(values, clusters, 0.9, 200, seed=1)
    for k in range(3):
        alone = clustered_mean(values[:, k], clusters, 0.9, 200, seed=1)
        torch.testing.assert_close(together[k], alone, atol=1e-12, rtol=0)
    assert together[1, 3] == 5


def test_independent_items_get_the_textbook_interval():
    values = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, low, high, _ = clustered_mean(values, [str(i) for i in range(200)], 0.95, 4000, seed=0).tolist()
    half = 1.96 * values.std().item() / 200**0.5
    # Percentiles of 4000 draws are good to a few percent of the interval.
    assert low == pytest.approx(mean - half, abs=0.1 * half)
    assert high == pytest.approx(mean + half, abs=0.1 * half)


def test_focus_makes_a_table_and_survives_saving(tmp_path):
    found = focus([BEFORE, BEFORE], [AFTER, BEFORE], seed=3)
    assert found == focus([BEFORE, BEFORE], [AFTER, BEFORE], seed=3)
    assert list(found.to_frame()["measure"]) == list(MEASURES)
    assert list(found.items()["overlap"]) == [0.5, 1.0]
    assert results.load(found.save(tmp_path / "focus")) == found


@pytest.mark.parametrize(
    ("before", "after", "options", "message"),
    [
        ([], [], {}, "no attributions to compare"),
        ([BEFORE], [], {}, "1 attributions before and 0 after"),
        ([BEFORE], [attribution(TOKENS[:2], [1.0, 2.0])], {}, r"item 0 .*token_ids differs before and after"),
        ([BEFORE], [attribution(TOKENS, [0.0] * 6, target="logit")], {}, "target differs before and after"),
        ([BEFORE], [AFTER], {"level": 95.0}, "level=95.0; a confidence level lies between 0 and 1"),
    ],
)
def test_unlike_attributions_raise_an_error(before, after, options, message):
    with pytest.raises(InputError, match=message):
        focus(before, after, **options)
