"""The figures of a run show the columns and tracked facts of its history."""

import numpy as np
import pytest

from tests.plots import examples
from unpact_lens.errors import InputError
from unpact_lens.plots.unlearning import focus_course, history, trajectory
from unpact_lens.unlearning.result import History


def test_history_draws_each_recorded_column_over_its_steps():
    made = examples.history(12)
    curves = {t.name: t for t in history(made).data}
    assert set(curves) == {"loss", "forget", "retain", "grad norm", "forget score"}
    assert list(curves["loss"].y) == [r["loss"] for r in made.rows]
    assert list(curves["forget score"].x) == [0, 5, 10]


def test_history_of_a_sweep_is_drawn_over_its_coefficients():
    rows = tuple({"coefficient": c, "forget_score": 1 - c} for c in (0.0, 0.5, 1.0))
    fig = history(History(rows=rows))
    (curve,) = fig.data
    assert list(curve.x) == [0.0, 0.5, 1.0]
    assert fig.layout.xaxis.title.text == "coefficient"


def test_trajectory_draws_one_facts_contributions_at_each_tracked_step():
    tracked = {str(step): [examples.attribution(step + i) for i in range(2)] for step in (0, 10, 2)}
    made = History(rows=(), trajectory=tracked)
    fig = trajectory(made, item=1)
    (trace,) = fig.data
    assert list(trace.x) == ["0", "2", "10"]
    np.testing.assert_allclose(trace.z[:, 2], tracked["10"][1].scores)
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin
    with pytest.raises(InputError, match="item 2 of 2 tracked facts"):
        trajectory(made, item=2)
    with pytest.raises(InputError, match="tracked no facts"):
        trajectory(History(rows=()))


def test_focus_course_draws_each_measure_by_step():
    tracked = {str(step): [examples.attribution(step + i) for i in range(3)] for step in (0, 10, 2)}
    made = History(rows=(), trajectory=tracked)
    frame = made.focus()
    curves = {t.name: t for t in focus_course(made).data}
    assert set(curves) == {"spearman", "overlap", "mass", "entropy", "subject score"}
    assert list(curves["spearman"].x) == [0, 2, 10]
    np.testing.assert_allclose(curves["entropy"].y, frame[frame.measure == "entropy_after"]["mean"])
    with pytest.raises(InputError, match="tracked no facts"):
        focus_course(History(rows=()))
