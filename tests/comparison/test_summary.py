"""Averages over a data set are those of its single diffs, and their parts still sum."""

import math

import pytest
import torch

from tests.comparison.models import moved, pair
from tests.conftest import tiny
from unpact_lens.comparison import diff, diff_many
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

ITEMS = [([3, 1, 4], [9, 2]), ([5, 6, 7, 8], [1]), ([2, 2], [3, 4, 5])]


def test_the_means_are_those_of_single_diffs_and_sum(style):
    before, after = pair(style)
    found = diff_many(before, after, ITEMS, resamples=50)
    singles = [diff(before, after, *item, contributions=False, weights=False) for item in ITEMS]
    mean = torch.stack([d.delta_log_prob.mean() for d in singles]).mean()
    assert found.scalars["log_prob"][0].item() == pytest.approx(mean.item(), abs=1e-10)
    logit = found.scalars["logit"][0].item()
    assert found.components[:, 0].sum().item() == pytest.approx(logit, abs=1e-10)
    assert logit - found.scalars["logsumexp"][0].item() == pytest.approx(mean.item(), abs=1e-10)
    head = torch.stack([d.delta_heads[1, 2].mean() for d in singles]).mean()
    assert found.heads[1, 2, 0].item() == pytest.approx(head.item(), abs=1e-10)
    low, high = found.heads[1, 2, 1:3].tolist()
    assert low <= head.item() <= high
    assert found.heads[1, 2, 3] == 3


def test_equal_models_are_at_zero_and_the_floor_stands_beside():
    model = tiny()
    same = diff_many(model, clone(model), ITEMS, resamples=10)
    assert not same.components.isnan().any()
    assert not same.components[:, :3].any()
    found = diff_many(model, moved(model), ITEMS, floor=(model, moved(model, size=0.01)), resamples=10)
    assert found.floor == diff_many(model, moved(model, size=0.01), ITEMS, resamples=10)
    assert found.above_floor().median() > 3
    assert "floor" in found.to_frame()
    with pytest.raises(InputError, match="no noise floor"):
        same.above_floor()


def test_kept_reproducible_and_refused(tmp_path):
    found = diff_many(*pair(), ITEMS, resamples=20, seed=3)
    assert load(save(found, tmp_path / "s")) == found
    assert found == diff_many(*pair(), ITEMS, resamples=20, seed=3)
    assert found.heads_frame()["head"][5] == "L1H1"
    one = diff_many(*pair(), ITEMS[:1], resamples=20)
    assert math.isnan(one.scalars["logit"][1])
    with pytest.raises(InputError, match="no items"):
        diff_many(*pair(), [])
    with pytest.raises(InputError, match=r"level=95\.0"):
        diff_many(*pair(), ITEMS, level=95.0)
