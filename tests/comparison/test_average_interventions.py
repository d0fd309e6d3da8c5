"""Interventions averaged over questions: means, shares as ratios of sums, intervals over subjects, noise baselines."""

import math

import pytest
import torch

from tests.comparison.models import moved
from tests.conftest import tiny
from unpact_lens.attribution import TopK
from unpact_lens.comparison import (
    average,
    graft_many,
    graft_map,
    key_path,
    key_path_many,
    patch,
    patch_many,
    unlearning_depth,
)
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.results import load, save
from unpact_lens.stats.bootstrap import clustered_means, clustered_ratios

ITEMS = [([3, 1, 4, 1, 5], [9, 2]), ([5, 6, 7], [1]), ([8, 9, 2, 2], [7, 7, 3])]


@pytest.fixture(scope="module")
def models():
    before = tiny("llama", n_layers=2)
    return before, moved(before), (before, moved(before, size=0.01, seed=8))


@pytest.mark.parametrize("what", ["head", "attn", "mlp", "layer"])
def test_patching_maps_are_averaged_and_their_share_is_a_ratio_of_sums(models, what):
    before, after, floor = models
    found = average(patch(before, after, *item, what=what, floor=floor) for item in ITEMS)
    maps = [patch(before, after, *item, what=what) for item in ITEMS]
    mean = torch.stack([m.values for m in maps]).mean(0)
    torch.testing.assert_close(found.change[..., 0], mean, atol=1e-12, rtol=0)
    gap = sum(m.donor - m.baseline for m in maps) / 3
    assert found.gap[0].item() == pytest.approx(gap)
    torch.testing.assert_close(found.share[..., 0], mean / gap, atol=1e-10, rtol=0)
    assert (found.change[..., 1] <= found.change[..., 0]).all()
    assert (found.change[..., 0] <= found.change[..., 2]).all()
    assert found.floor == average(patch(*floor, *item, what=what) for item in ITEMS)
    frame = found.to_frame()
    assert frame["change_floor"].tolist() == found.floor.change[..., 0].flatten().tolist()
    assert frame["place"].tolist()[: len(found.labels[1])] == list(found.labels[1])


@pytest.mark.parametrize("unit", ["matrix", "layer"])
@pytest.mark.parametrize("direction", ["before_into_after", "after_into_before"])
def test_grafts_are_averaged_over_questions_and_leave_the_models_alone(models, unit, direction):
    before, after, floor = models
    weights = model_hash(after)
    found = graft_many(before, after, iter(ITEMS), unit=unit, direction=direction, floor=floor, batch_tokens=8)
    maps = [graft_map(before, after, *item, unit=unit, direction=direction) for item in ITEMS]
    mean = torch.stack([m.values.double() for m in maps]).mean(0)
    torch.testing.assert_close(found.change[..., 0], mean, atol=1e-6, rtol=0)
    gap = sum(m.donor - m.baseline for m in maps) / 3
    assert found.gap[0].item() == pytest.approx(gap, abs=1e-6)
    torch.testing.assert_close(found.share[..., 0], mean / gap, atol=1e-5, rtol=1e-5)
    assert found.labels == maps[0].labels
    assert found.floor == graft_many(*floor, ITEMS, unit=unit, direction=direction, batch_tokens=8)
    assert model_hash(after) == weights
    assert found.what == f"weights by {unit}"
    layout = found.plot().layout
    title = layout.title.text.replace("<br>", " ")
    assert title.startswith(f"Grafting weights by {unit}, {direction.replace('_', ' ')}")
    assert layout.xaxis.ticktext == found.labels[1]
    assert layout.yaxis.ticktext == found.labels[0]


@pytest.mark.parametrize("restore", ["moved", "pattern"])
def test_key_paths_are_averaged_and_their_share_is_a_ratio_of_sums(models, restore):
    before, after, floor = models
    asked = {"keys": TopK(1), "restore": restore, "draws": 2, "floor": floor}
    found = average(key_path(before, after, *item, **asked) for item in ITEMS)
    paths = [key_path(before, after, *item, keys=TopK(1), restore=restore, draws=2) for item in ITEMS]
    loss = sum(p.log_prob_before - p.log_prob_after for p in paths)
    back = sum(p.log_prob_key - p.log_prob_after for p in paths)
    assert found.share[0, 0].item() == pytest.approx(back / loss)
    assert found.change[0, 0].item() == pytest.approx(back / 3)
    assert found.loss[0].item() == pytest.approx(loss / 3)
    torch.testing.assert_close(found.by_head[..., 0], torch.stack([p.values for p in paths]).mean(0))
    assert found.to_frame()["path"].tolist() == ["key tokens", "other tokens", "all tokens"]
    assert found.heads_frame()["change_floor"].tolist() == found.floor.by_head[..., 0].flatten().tolist()


def test_ratios_exclude_undefined_parts_and_draw_whole_subjects():
    parts = torch.tensor([[1.0, 1.0], [2.0, float("nan")], [6.0, 2.0]])
    wholes = torch.tensor([2.0, 2.0, 8.0])
    found = clustered_ratios(parts, wholes, ["a", "a", "b"], 0.95, 500, 0)
    assert found[:, 0].tolist() == pytest.approx([9 / 12, 3 / 10])
    assert found[:, 3].tolist() == [3, 2]
    # A draw is of a twice, b twice, or both: 3/4 each way, and 1/2 or 1/4 in the second column.
    assert found[0, 1:3].tolist() == pytest.approx([0.75, 0.75])
    assert found[1, 1:3].tolist() == pytest.approx([0.25, 0.5])
    assert clustered_ratios(parts[:, :1], torch.zeros(3), ["a", "a", "b"], 0.95, 50, 0)[0, 0].isnan()
    assert clustered_ratios(parts[:, :1], wholes, ["a"] * 3, 0.95, 50, 0)[0, 1].isnan()


def test_depth_has_intervals_over_subjects(models):
    full, unlearned, _ = models
    retrain = moved(full, size=0.3, seed=9)
    found = unlearning_depth(full, retrain, unlearned, iter(ITEMS), threshold=0.0)
    subjects = [f"item {i}" for i in range(3)]
    torch.testing.assert_close(found.mean, clustered_means(found.scores[:, None], subjects, 0.95, 2000, 0)[0])
    torch.testing.assert_close(found.layers[0, :, 0], found.delta_retrain.mean(0))
    assert found.mean[1] < found.score < found.mean[2]
    assert "UDS" in found.plot().layout.title.subtitle.text.replace("<br>", " ")


def test_equal_models_restore_exactly_nothing(models):
    before, _, _ = models
    patched, path = patch_many(before, clone(before), ITEMS), key_path_many(before, clone(before), ITEMS)
    assert not patched.change[..., :3].any()
    assert not path.change[..., :3].any()
    assert math.isnan(path.share[0, 0])


def test_averages_are_drawn_and_saved(models, tmp_path):
    before, after, floor = models
    for found in (patch_many(before, after, ITEMS, floor=floor), key_path_many(before, after, ITEMS, floor=floor)):
        assert load(save(found, tmp_path / type(found).__name__)) == found
        assert "3 questions" in found.plot().layout.title.subtitle.text.replace("<br>", " ")
        assert "nats" in found.plot().layout.title.subtitle.text.replace("<br>", " ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, a: patch_many(b, a, ITEMS, what="resid_pre"), "what='resid_pre' goes by position"),
        (lambda b, a: patch_many(b, a, ITEMS, what="heads"), "what='heads'; did you mean 'head'"),
        (lambda b, a: patch_many(b, a, []), "no items"),
        (lambda b, a: graft_many(b, a, []), "no items"),
        (lambda b, a: graft_many(b, a, ITEMS, unit="block"), "unit='block'; known are 'layer', 'matrix'"),
        (lambda b, a: graft_many(b, a, ITEMS, direction="up"), "direction='up'; known are 'before_into_after' and"),
        (lambda b, a: patch_many(b, a, ITEMS, level=95.0), "level=95.0; a confidence level lies between 0 and 1"),
        (lambda b, a: patch_many(b, a, ITEMS, floor=(b,)), "floor= takes a pair of models"),
        (lambda b, a: key_path_many(b, a, ITEMS, keys=[4]), "key token 4 lies outside the prompt of 3 tokens"),
        (lambda b, a: key_path_many(b, a, ITEMS, restore="x"), "restore='x'; known are"),
        (lambda b, a: key_path_many(b, tiny("llama", n_layers=3), ITEMS), r"cfg\.n_layers"),
    ],
)
def test_errors_name_the_bad_input(models, call, message):
    before, after, _ = models
    with pytest.raises(InputError, match=message):
        call(before, after)
