"""Figures of path effects and ablations show the values, escaped tokens and symmetric scales."""

import numpy as np

from tests.plots.examples import ANSWER, HOSTILE, noise
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
    assert "frozen: norms" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert escaped(fig)


def test_an_ablation_map_shows_the_effect_of_each_part():
    found = Ablation(noise(2, 3), noise(2, 3).abs(), -1.0, LABELS, "head", "resample", HOSTILE, ANSWER, **TEXT)
    (trace,) = found.plot().data
    np.testing.assert_allclose(np.asarray(trace.z), -1.0 - found.log_prob)
    assert escaped(found.plot())
