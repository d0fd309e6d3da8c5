"""Averages over a data set are those of its single diffs, and their parts still sum."""

import math
from dataclasses import replace

import pytest
import torch

from tests.comparison.models import moved, pair
from tests.conftest import tiny
from unpact_lens.comparison import diff, diff_many, focus, split_heads
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
    with pytest.raises(InputError, match="no noise baseline"):
        same.above_floor()


def test_splits_activations_and_focus_are_averaged_too():
    before, after = pair("llama")
    floor = (before, moved(before, size=0.01))
    asked = {"split": True, "pattern_parts": True, "activations": True, "contributions": True}
    found = diff_many(before, after, ITEMS, resamples=20, floor=floor, **asked)
    singles = [diff(before, after, *item, activations=True) for item in ITEMS]
    splits = [split_heads(before, after, *item, pattern_parts=True) for item in ITEMS]

    assert found.players == ("pattern", "input", "ov", "readout", "qk_weights", "qk_input")
    torch.testing.assert_close(found.split[:4, ..., 0].sum(0), found.heads[..., 0], atol=1e-10, rtol=0)
    torch.testing.assert_close(found.split[4:, ..., 0].sum(0), found.split[0, ..., 0], atol=1e-10, rtol=0)
    mean = torch.stack([s.values[2].mean(-1) for s in splits]).mean(0)
    torch.testing.assert_close(found.split[2, ..., 0], mean, atol=1e-10, rtol=0)

    relative = torch.stack([d.activations.relative.nanmean(1) for d in singles]).mean(0)
    torch.testing.assert_close(found.activations["relative"][:, 0], relative, atol=1e-10, rtol=0)
    cka = torch.stack([d.activations.cka for d in singles])
    torch.testing.assert_close(found.activations["cka"][:, 0], cka.nanmean(0), atol=1e-10, rtol=0)
    for k, name in enumerate(("kl_prompt", "kl_answer")):
        # The last position of the prompt already predicts the answer.
        cuts = [len(prompt) - 1 for prompt, _ in ITEMS]
        kl = [(d.activations.kl[:c], d.activations.kl[c:])[k].mean() for d, c in zip(singles, cuts, strict=True)]
        assert found.scalars[name][0].item() == pytest.approx(torch.stack(kl).mean().item(), abs=1e-10)

    sides = [
        [replace(getattr(d, f"contributions_{side}"), id=str(i)) for i, d in enumerate(singles)]
        for side in ("before", "after")
    ]
    assert found.focus == focus(*sides, resamples=20)
    assert found.floor == diff_many(*floor, ITEMS, resamples=20, **asked)
    for frame in (found.split_frame(), found.activations_frame(), found.heads_frame()):
        assert frame["floor"].abs().mean() > 0
    for what in ("components", "split", "activations", "focus"):
        assert found.plot(what=what).data
    with pytest.raises(InputError, match=r"what='splits'; did you mean 'split'"):
        found.plot(what="splits")


def test_a_stream_is_read_once_one_item_at_a_time():
    before, after = pair()
    read = []

    def stream():
        for item in ITEMS:
            read.append(item)
            yield item

    found = diff_many(before, after, stream(), resamples=10, floor=(before, after))
    assert found == diff_many(before, after, ITEMS, resamples=10, floor=(before, after))
    assert read == ITEMS
    with pytest.raises(InputError, match="no items"):
        diff_many(before, after, iter([]))


def test_what_was_not_asked_for_is_said():
    found = diff_many(*pair(), ITEMS[:1], resamples=10)
    with pytest.raises(InputError, match=r"not split; average diff\(..., split=True\)"):
        found.split_frame()
    with pytest.raises(InputError, match="no activations"):
        found.activations_frame()
    with pytest.raises(InputError, match=r"no focus; average diff\(..., contributions=True\)"):
        found.plot(what="focus")
    with pytest.raises(InputError, match="floor= takes a pair of models"):
        diff_many(*pair(), ITEMS, floor=pair()[:1])


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
