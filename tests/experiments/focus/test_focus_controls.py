"""The figure of focus shows the mean of each model, random tokens with hollow marks, and the heads."""

import pandas as pd
import pytest

from experiments.focus.focus_controls import focus_controls
from experiments.focus.focus_over_seeds import focus_over_seeds
from tests.experiments.focus.test_focus_shift import made


@pytest.fixture(scope="module")
def frame():
    groups = ("forget", "paraphrase", "retain")
    return focus_over_seeds([made(s, g, [1.0] * 3, [0.25 + 0.5 * s] * 3) for g in groups for s in range(2)])


def test_figure_shows_means_intervals_random_tokens_and_heads(frame):
    trajectory = pd.DataFrame({"method": "ga", "seed": [0, 0], "step": [0, 3], "measure": "overlap", "mean": [1, 0.4]})
    fig = focus_controls(frame, trajectory)
    shown = [t for t in fig.data if t.type == "scatter" and t.xaxis == "x"]
    assert [t.name for t in shown] == ["forget facts", "held-out paraphrases", "retain facts"]
    assert [t.x[0] for t in shown] == [0.5] * 3
    assert shown[0].x[0] + shown[0].error_x.array[0] == pytest.approx(0.75)
    hollow = [t for t in fig.data if t.type == "scatter" and t.marker.symbol and t.marker.symbol.endswith("-open")]
    assert len(hollow) == 6  # mass shift and share of the loss, three groups each
    (line,) = [t for t in fig.data if t.name == "ga"]
    assert list(line.y) == [1, 0.4]
    (heads,) = [t for t in fig.data if t.type == "heatmap"]
    assert (list(heads.x), heads.z.tolist()) == (["L0H0", "L0H1"], [[0.5, 0.5]])
