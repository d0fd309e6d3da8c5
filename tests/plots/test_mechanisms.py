"""Paths and ablations are drawn as they are; tokens are escaped, scales are symmetric."""

import numpy as np
import torch

from tests.plots.examples import ANSWER, HOSTILE, noise
from unpact_lens.comparison import AttentionPatterns, DiffSummary, KeyPath, UnlearningDepth
from unpact_lens.decomposition import Ablation, PathEffects

LABELS = (("L0", "L1"), ("H0", "H1", "H2"))
TEXT = {"prompt": "".join(HOSTILE), "answer": "".join(ANSWER)}


def escaped(fig):
    return "<script" not in fig.to_json().replace("\\u003c", "<")


def test_paths_are_direct_plus_indirect_on_one_scale():
    found = PathEffects(noise(2, 6, 2), noise(2, 6, 2, seed=1), ((0, 1), (1, 0)), ("norms",), HOSTILE, ANSWER, **TEXT)
    fig = found.plot()
    direct, indirect, total = (np.asarray(trace.z) for trace in fig.data)
    np.testing.assert_allclose(direct + indirect, total)
    assert list(fig.data[0].y) == ["L0H1", "L1H0"]
    assert "held: norms" in fig.layout.title.subtitle.text
    assert escaped(fig)


def test_an_ablation_shows_what_each_part_is_worth():
    found = Ablation(noise(2, 3), noise(2, 3).abs(), -1.0, LABELS, "head", "resample", HOSTILE, ANSWER, **TEXT)
    (trace,) = found.plot().data
    np.testing.assert_allclose(np.asarray(trace.z), -1.0 - found.log_prob)
    assert escaped(found.plot())


def test_attention_is_drawn_before_after_and_delta_without_the_future():
    before, after = noise(2, 6, 6).softmax(-1), noise(2, 6, 6, seed=1).softmax(-1)
    fig = AttentionPatterns(before, after, ((1, 2), (0, 0)), noise(2), HOSTILE, **TEXT).plot()
    assert len(fig.data) == 6
    first, second, delta = (np.asarray(trace.z) for trace in fig.data[:3])
    np.testing.assert_allclose(delta[np.tril_indices(6)], (second - first)[np.tril_indices(6)])
    np.testing.assert_allclose(first[3, :4], before[0, 3, :4])
    assert np.isnan(first[np.triu_indices(6, 1)]).all()
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin
    assert escaped(fig)


def test_the_key_path_stands_between_after_and_before():
    found = KeyPath(-1.0, -5.0, -2.0, noise(4) - 4, -1.5, noise(2, 3) - 4, (2, 3), "moved", LABELS, HOSTILE, **TEXT)
    bars, heads = found.plot().data
    assert dict(zip(bars.x, bars.y, strict=True))["KeyTokens"] == -2.0
    np.testing.assert_allclose(np.asarray(heads.z), found.by_head + 5.0)
    assert "75% of the loss" in found.plot().layout.title.subtitle.text
    assert escaped(found.plot())


def test_depth_is_two_curves_and_its_score():
    scores, layers = torch.tensor([0.25, 0.75]), ("L0", "L1", "L2")
    found = UnlearningDepth(scores, noise(2, 3), noise(2, 3, seed=1), 0.05, ("a", "b"), layers)
    fig = found.plot()
    np.testing.assert_allclose(fig.data[1].y, found.delta_unlearned.mean(0))
    assert "UDS 0.50" in fig.layout.title.subtitle.text


def test_a_summary_shows_the_largest_changes_with_intervals_and_the_floor_beside():
    def summary(seed, floor=None):
        means = noise(5, seed=seed)
        table = torch.stack([means, means - 0.1, means + 0.2, torch.full_like(means, 3)], 1)
        scalars = dict.fromkeys(("log_prob", "logit", "logsumexp"), table[0])
        heads = table[:1].expand(6, 4).reshape(2, 3, 4).clone()
        labels = (("embed", "L0H0", "L0.mlp", "<b>", "unembed.bias"), *LABELS)
        return DiffSummary(scalars, table, heads, noise(3, 3), labels, ("a", "b", "c"), floor)

    found = summary(0, summary(1))
    bars, floor = found.plot(top=3).data
    order = found.components[:, 0].abs().argsort(descending=True)[:3]
    np.testing.assert_allclose(bars.x, found.components[order, 0])
    np.testing.assert_allclose(bars.error_x.array, [0.2] * 3)
    np.testing.assert_allclose(bars.error_x.arrayminus, [0.1] * 3)
    np.testing.assert_allclose(floor.x, found.floor.components[order, 0])
