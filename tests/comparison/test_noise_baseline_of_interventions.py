"""Interventions and lenses hold their noise baseline, and change exactly nothing between equal models."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.comparison.models import moved
from tests.conftest import tiny
from unpact_lens.comparison import attention_patterns, graft_map, key_path, lens_changes, patch, unlearning_depth
from unpact_lens.decomposition import lens_curves, train_tuned_lens
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2, 6]
ITEMS = [(PROMPT, ANSWER), ([5, 6, 7], [1])]

ON_ONE = {
    "patch": lambda *models, **o: patch(*models, PROMPT, ANSWER, what="resid_pre", **o),
    "patch by gradient": lambda *models, **o: patch(*models, PROMPT, ANSWER, what="head", method="gradient", **o),
    "graft_map": lambda *models, **o: graft_map(*models, PROMPT, ANSWER, unit="layer", **o),
    "key_path": lambda *models, **o: key_path(*models, PROMPT, ANSWER, keys=[1, 4], draws=3, **o),
    "lens_changes": lambda *models, **o: lens_changes(*models, PROMPT, ANSWER, **o),
    "attention_patterns": lambda *models, **o: attention_patterns(*models, PROMPT, ANSWER, heads=[(1, 2), (0, 0)], **o),
}
COLUMNS = {
    "patch": ["change"],
    "patch by gradient": ["change"],
    "graft_map": ["change"],
    "key_path": ["change"],
    "lens_changes": ["logit_delta", "log_prob_delta", "rank_delta"],
    "attention_patterns": ["delta"],
}


@pytest.fixture(scope="module")
def models():
    before = tiny("llama")
    return before, moved(before), (before, moved(before, size=0.01, seed=8))


@pytest.mark.parametrize("name", ON_ONE)
def test_baseline_is_the_same_measure_of_the_other_pair(models, name, tmp_path):
    before, after, floor = models
    found, alone = ON_ONE[name](before, after, floor=floor), ON_ONE[name](*floor)
    assert found.floor == alone
    assert replace(found, floor=None) == ON_ONE[name](before, after)
    assert load(save(found, tmp_path / "r")) == found
    for column in COLUMNS[name]:
        np.testing.assert_array_equal(found.to_frame()[f"{column}_floor"], alone.to_frame()[column])
    marked = [t for t in found.plot().data if t.name == "noise baseline"]
    titles = [a.text for a in found.plot().layout.annotations]
    assert marked or any("noise baseline" in title for title in titles)


@pytest.mark.parametrize("name", ON_ONE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_models_give_exact_zeros(style, dtype, name):
    model = tiny(style, dtype=dtype)
    found = ON_ONE[name](model, clone(model))
    if name == "lens_changes":
        values = torch.stack([found.delta_logit, found.delta_log_prob, found.delta_rank])
    elif name == "attention_patterns":
        values = found.after - found.before
    else:
        values = found.values
    assert not values.any()
    if name == "key_path":
        assert not torch.tensor(found.to_frame()["change"]).any()


def test_depth_baseline_is_that_of_a_model_that_differs_by_noise(models):
    full, unlearned, floor = models
    retrain = moved(full, size=0.3, seed=9)
    found = unlearning_depth(full, retrain, unlearned, ITEMS, threshold=0.0, floor=floor)
    assert found.floor == unlearning_depth(floor[0], retrain, floor[1], ITEMS, threshold=0.0)
    np.testing.assert_array_equal(found.to_frame()["uds_floor"], found.floor.scores)
    assert found.layers_frame()["delta_floor"].tolist() == found.floor.delta_unlearned.mean(0).tolist()
    assert found.plot().data[2].name == "noise baseline (Δ2)"
    nothing = unlearning_depth(full, retrain, clone(full), ITEMS, threshold=0.0)
    assert not nothing.delta_unlearned.any()
    assert nothing.scores.nansum() == 0


def test_share_floor_is_a_share_of_the_explained_loss(models):
    before, after, floor = models
    found = key_path(before, after, PROMPT, ANSWER, keys=[1, 4], floor=floor)
    frame = found.to_frame().set_index("path")
    loss = found.log_prob_before - found.log_prob_after
    noise = found.floor.log_prob_key - found.floor.log_prob_after
    assert frame.loc["key tokens", "share_floor"] == pytest.approx(noise / loss)
    assert frame.loc["after", "share_floor"] == 0
    assert found.floor.keys == found.keys


def test_lens_changes_are_the_curves_of_each_model(models):
    before, after, _ = models
    found = lens_changes(before, after, PROMPT, ANSWER)
    tokens = torch.tensor([(PROMPT + ANSWER)[:-1]])
    for side, model in ((found.before, before), (found.after, after)):
        with torch.no_grad():
            last = model(tokens)[0, len(PROMPT) - 1 :].log_softmax(-1)[range(3), ANSWER]
        torch.testing.assert_close(side.log_prob[-1], last, atol=1e-10, rtol=0)
    row = found.to_frame().iloc[-1]
    assert row["log_prob_delta"] == pytest.approx(row["log_prob_after"] - row["log_prob_before"])
    assert row["answer_token"] == found.before.answer_tokens[-1]


def test_an_invalid_baseline_raises_an_error(models):
    before, after, _ = models
    calls = [
        *ON_ONE.values(),
        lambda b, a, floor: unlearning_depth(b, a, a, ITEMS, floor=floor),
    ]
    for call in calls:
        with pytest.raises(InputError, match="floor= takes a pair of models"):
            call(before, after, floor=(before, after, after))
        with pytest.raises(InputError, match=r"cfg.n_layers is 3 before and 2 after"):
            call(before, after, floor=(before, tiny("llama", n_layers=2)))


def test_each_tuned_lens_reads_its_own_model(models):
    before, after, _ = models
    lenses = [train_tuned_lens(model, [[1, 2, 3], [4, 5, 6, 7]], steps=3) for model in (before, after)]
    found = lens_changes(before, after, PROMPT, ANSWER, lenses=lenses, floor=(before, after), floor_lenses=lenses)
    for side, model, lens in ((found.before, before, lenses[0]), (found.after, after, lenses[1])):
        assert side == lens_curves(model, PROMPT, ANSWER, lens=lens)
        assert side.lens == "tuned"
    assert torch.equal(found.floor.delta_logit, found.delta_logit)
    with pytest.raises(InputError, match=r"lenses= takes a pair of tuned lenses, one for each model; got 1"):
        lens_changes(before, after, PROMPT, ANSWER, lenses=lenses[:1])
    with pytest.raises(InputError, match="lenses= and floor_lenses= go together"):
        lens_changes(before, after, PROMPT, ANSWER, floor=(before, after), floor_lenses=lenses)
    with pytest.raises(InputError, match="trained for another model"):
        lens_changes(before, after, PROMPT, ANSWER, lenses=lenses[::-1])
