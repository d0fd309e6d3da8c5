"""Figures of attention, key paths, depth and averages show the numbers of their results."""

from dataclasses import replace

import numpy as np
import torch

from tests.plots.examples import ANSWER, HOSTILE, noise
from unpact_lens.comparison import DiffSummary
from unpact_lens.comparison.attention_patterns import AttentionPatterns
from unpact_lens.comparison.key_path import KeyPath
from unpact_lens.comparison.unlearning_depth import UnlearningDepth


def test_attention_is_drawn_before_after_and_delta_below_the_diagonal():
    size = len(HOSTILE)
    before, after = (noise(2, size, size, seed=s).tril().abs().clamp(max=1) for s in (0, 1))
    patterns = AttentionPatterns(
        before=before, after=after, heads=((0, 1), (2, 0)), delta=torch.tensor([-1.0, 0.5]), tokens=HOSTILE, prompt="p",
        answer="".join(ANSWER),
    )  # fmt: skip
    fig = patterns.plot()
    assert len(fig.data) == 6
    below = np.tril(np.ones((size, size), dtype=bool))
    np.testing.assert_allclose(fig.data[5].z[below], (after - before)[1].numpy()[below])
    assert np.isnan(fig.data[0].z[~below]).all()
    assert [t.visible for t in fig.data] == [True] * 3 + [False] * 3
    second = fig.layout.updatemenus[0].buttons[1]
    assert second.label == "L2H0 (Δ +0.50 logits)"
    assert second.args[0]["visible"] == [False] * 3 + [True] * 3
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin == 1


def test_the_key_path_shows_shares_and_each_head():
    path = KeyPath(
        log_prob_before=-1.0, log_prob_after=-5.0, log_prob_key=-3.0, log_prob_rest=torch.tensor([-5.0, -4.0]),
        log_prob_all=-1.0, by_head=noise(2, 3) - 5, keys=(2,), restore="pattern",
        labels=(("L0", "L1"), ("H0", "H1", "H2")), tokens=HOSTILE, prompt="p", answer="a",
    )  # fmt: skip
    fig = path.plot()
    bars, heads = fig.data
    np.testing.assert_allclose(bars.x, [0.5, 0.125, 1.0])
    np.testing.assert_allclose(heads.z, path.by_head + 5)
    assert "nats" in heads.hovertemplate
    assert "<script" not in fig.layout.title.subtitle.text.replace("<br>", " ")


def test_depth_shows_the_two_losses_by_layer():
    sides = noise(2, 3), noise(2, 3, seed=1)
    centres = torch.stack([side.mean(0) for side in sides])[..., None]
    depth = UnlearningDepth(
        scores=torch.tensor([0.2, 0.4]), delta_retrain=sides[0], delta_unlearned=sides[1], threshold=0.05,
        ids=("a", "b"), labels=("L0", "L1", "L2"), mean=torch.tensor([0.3, 0.2, 0.4, 2]),
        layers=torch.cat([centres, centres - 0.1, centres + 0.2, torch.full_like(centres, 2.0)], -1),
    )  # fmt: skip
    fig = depth.plot()
    np.testing.assert_allclose(fig.data[0].y, depth.delta_retrain.mean(0))
    np.testing.assert_allclose(fig.data[1].y, depth.delta_unlearned.mean(0))
    np.testing.assert_allclose(fig.data[0].error_y.array, [0.2] * 3)
    assert "UDS 0.30 [0.20, 0.40]" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert [t.name for t in replace(depth, floor=depth).plot().data][2:] == ["noise baseline (Δ2)"]


def made_summary(seed: int, floor: DiffSummary | None = None) -> DiffSummary:
    centre = noise(3, 1, seed=seed)
    heads = torch.tensor([[[1.0, 0.5, 1.5, 9], [0.1, -0.5, 0.7, 9]], [[-1.0, -2.0, -0.5, 9], [0.0, 0.0, 0.0, 9]]])
    return DiffSummary(
        scalars={"log_prob": torch.tensor([-1.0, -2.0, -0.5, 9])}, heads=heads, items=noise(9, 3),
        components=torch.cat([centre, centre - 0.3, centre + 0.2, torch.full((3, 1), 9.0)], 1),
        labels=(("embed", "L0H0", "L0.mlp"), ("L0", "L1"), ("H0", "H1")), ids=tuple("abcdefghi"), floor=floor,
        adjusted_p={"heads": torch.tensor([[0.05, 0.051], [0.001, 1.0]])},
    )  # fmt: skip


def test_an_average_shows_means_intervals_baseline_and_significant_heads():
    summary = made_summary(0, floor=made_summary(1))
    delta, floor = summary.plot().data
    np.testing.assert_allclose(delta.y, summary.components[:, 0])
    np.testing.assert_allclose(delta.error_y.arrayminus, [0.3] * 3)
    np.testing.assert_allclose(floor.y, summary.floor.components[:, 0])
    fig = summary.plot("heads")
    heads, sure, noisy, _ = fig.data
    np.testing.assert_allclose(noisy.z, summary.floor.heads[..., 0])
    np.testing.assert_allclose(heads.z, summary.heads[..., 0])
    assert list(zip(sure.y, sure.x, strict=True)) == [(0, 0), (1, 0)]
    subtitle = fig.layout.title.subtitle.text.replace("<br>", " ")
    assert "significant at 5%, corrected for all cells" in subtitle
    assert "9 questions; Δ log-prob -1.00 [-2.00, -0.50] nats; 95% intervals" in subtitle
    no_dots = replace(summary, adjusted_p={}).plot("heads").data[1]  # results of version 0.1 hold no such p-values
    assert len(no_dots.x) == 0
