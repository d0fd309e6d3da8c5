"""Each measure of a diff and of a focus holds its noise baseline: the same measure of a second pair of models."""

import numpy as np
import pytest
import torch

from tests.attribution.examples import attribution
from tests.comparison.models import moved
from tests.conftest import tiny
from unpact_lens.comparison import activation_changes, diff, focus, split_heads, weight_changes
from unpact_lens.errors import InputError
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2, 6]


@pytest.fixture(scope="module")
def models():
    before = tiny("llama")
    return before, moved(before), (before, moved(before, size=0.01, seed=8))


@pytest.fixture(scope="module")
def found(models):
    before, after, floor = models
    return diff(before, after, PROMPT, ANSWER, sources=True, split=True, activations=True, floor=floor)


def test_baseline_is_the_same_measure_of_the_other_pair(models, found):
    _, _, floor = models
    alone = diff(*floor, PROMPT, ANSWER, sources=True, split=True, activations=True)
    assert torch.equal(found.floor.delta_components, alone.delta_components)
    assert found.floor.sources_after == alone.sources_after
    assert torch.equal(found.floor.delta_contributions, alone.delta_contributions)
    assert found.weights.floor == alone.weights == weight_changes(*floor)
    assert found.split.floor == alone.split == split_heads(*floor, PROMPT, ANSWER)
    assert found.activations.floor == alone.activations == activation_changes(*floor, PROMPT, ANSWER)


def test_tables_show_the_baseline_beside_each_measure(found):
    pairs = [
        (found.to_frame(), found.floor.to_frame(), ("delta",)),
        (found.contributions_frame(), found.floor.contributions_frame(), ("delta",)),
        (found.sources_frame(), found.floor.sources_frame(), ("delta",)),
        (found.weights.to_frame(), found.weights.floor.to_frame(), ("norm_delta", "relative", "spectral", "cosine")),
        (found.split.to_frame(), found.split.floor.to_frame(), ("pattern", "input", "ov", "readout", "delta")),
        (found.activations.to_frame(), found.activations.floor.to_frame(), ("norm_delta", "cosine", "cka")),
        (found.activations.kl_frame(), found.activations.floor.kl_frame(), ("kl",)),
    ]
    for frame, floor, columns in pairs:
        for column in columns:
            np.testing.assert_array_equal(frame[f"{column}_floor"], floor[column])
    # Noise of a tenth of the size moves everything less.
    assert (found.activations.kl > found.activations.floor.kl).all()


def test_figures_show_the_baseline(found):
    marks = [t for t in found.plot().data if t.name == "noise baseline"]
    assert list(marks[0].y)[:-1] == pytest.approx(found.floor.delta_components.mean(-1).tolist())
    bars, weights = found.weights.plot().data
    relative = dict(zip(found.weights.names, found.weights.floor.relative.tolist(), strict=True))
    assert list(weights.x) == [relative[name] for name in bars.y]
    assert len(found.split.plot().data) == 2 * 5
    assert len(found.activations.plot().data) == 2 * 2


def test_baseline_survives_saving(found, tmp_path):
    assert load(save(found, tmp_path / "diff")) == found


def test_focus_has_a_baseline():
    tokens = ["Where", " was", " Ann", " Lee", " born", "?"]
    before = attribution(tokens, [0.0, -1.0, 3.0, 2.0, 5.0, 0.0], subject="Ann Lee")
    after = attribution(tokens, [2.0, -1.0, 1.0, 0.5, 4.0, 0.5], subject="Ann Lee")
    near = attribution(tokens, [0.1, -1.0, 3.1, 2.0, 4.9, 0.0], subject="Ann Lee")
    shift = focus([before], [after], floor=([before], [near]))
    assert shift.floor == focus([before], [near])
    frame = shift.to_frame().set_index("measure")
    assert frame.loc["overlap", "mean"] == 0.5
    assert frame.loc["overlap", "floor"] == 1.0
    assert any("noise baseline" in trace.x for trace in shift.plot().data)
    other = attribution(tokens[:2], [1.0, 2.0])
    with pytest.raises(InputError, match="token_ids differs"):
        focus([before], [after], floor=([other], [other]))


def test_an_invalid_baseline_raises_an_error(models):
    before, after, _ = models
    for call in (
        lambda floor: diff(before, after, PROMPT, ANSWER, floor=floor),
        lambda floor: weight_changes(before, after, floor=floor),
        lambda floor: split_heads(before, after, PROMPT, ANSWER, floor=floor),
        lambda floor: activation_changes(before, after, PROMPT, ANSWER, floor=floor),
    ):
        with pytest.raises(InputError, match="floor= takes a pair of models"):
            call((before, after, after))
        with pytest.raises(InputError, match=r"cfg.n_layers is 3 before and 2 after"):
            call((before, tiny("llama", n_layers=2)))
