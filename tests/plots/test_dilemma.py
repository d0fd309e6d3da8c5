"""The plane shows each method at its excess and its destruction."""

import numpy as np
import pandas as pd
import pytest

from tests.plots import studies
from unpact_lens.plots.dilemma import dilemma_plane


@pytest.fixture(scope="module")
def study():
    return studies.study()


def markers(fig):
    return {t.name: t for t in fig.data}


def test_the_destruction_of_trained_facts_is_shown_beside(study):
    frame = study.to_frame().assign(D_trained=0.05)

    class Shown:
        config, control = study.config, study.control

        def to_frame(self):
            return frame

    plain, fig = dilemma_plane(study), dilemma_plane(Shown())
    assert "D of trained facts" not in {t.name for t in plain.data}
    (marks,) = [t for t in fig.data if t.name == "D of trained facts"]
    defined = frame[frame["excess"].notna()]
    assert list(marks.x) == defined["excess"].tolist()
    assert list(marks.y) == [0.05] * len(defined)
    assert "D_trained 0.05" in fig.data[0].hovertemplate
    assert "unseen facts" in fig.layout.yaxis.title.text


def test_each_marker_is_at_its_excess_and_destruction_with_both_intervals(study):
    shown = markers(dilemma_plane(study))
    frame = study.to_frame().set_index("method")
    for method in ("ga", "ga_gdr", "npo", "npo_gdr"):
        row, t = frame.loc[method], shown[method]
        np.testing.assert_allclose([t.x[0], t.y[0]], [row["excess"], row["D"]])
        np.testing.assert_allclose(t.x[0] + t.error_x.array[0], row["excess_high"])
        np.testing.assert_allclose(t.x[0] - t.error_x.arrayminus[0], row["excess_low"])
        np.testing.assert_allclose(t.y[0] + t.error_y.array[0], row["D_high"])
        np.testing.assert_allclose(t.y[0] - t.error_y.arrayminus[0], row["D_low"])


def test_methods_that_forgot_too_little_are_hollow(study):
    shown = markers(dilemma_plane(study))
    hollow = {name for name, t in shown.items() if t.marker.symbol.endswith("-open")}
    assert hollow == set(study.to_frame().query("F < 0.9").method) == {"npo_gdr"}


def test_an_undefined_excess_is_in_a_separate_strip(study):
    shown = markers(dilemma_plane(study))
    assert pd.isna(study.to_frame().set_index("method").loc["rmu", "excess"])
    assert shown["rmu"].xaxis == "x2"
    assert {t.xaxis for name, t in shown.items() if name != "rmu"} == {"x"}


def test_the_reliable_square_ends_at_epsilon(study):
    (square,) = dilemma_plane(studies.study(cells=study.cells, epsilon=0.2)).layout.shapes
    assert (square.x1, square.y1) == (0.2, 0.2)
    assert square.x0 <= 0
    assert square.y0 <= 0


def test_the_retrained_model_is_drawn_as_the_reference(study):
    reference = markers(dilemma_plane(study))["retrain"]
    assert reference.x[0] == 0
    assert reference.y[0] == study.control.destruction.value
    assert "retrain" not in markers(dilemma_plane(studies.study(control=False)))


def test_seeds_of_a_method_share_a_colour_and_have_their_own_names():
    fig = dilemma_plane(studies.study(cells=(studies.cell("ga", seed=0), studies.cell("ga", seed=1))))
    first, second, _ = fig.data
    assert (first.name, second.name) == ("ga · 0", "ga · 1")
    assert first.marker.color == second.marker.color
