"""A run's figure shows what its history holds, and leaves out what it does not."""

from tests.plots import examples
from unpact_lens.plots.unlearning import history
from unpact_lens.unlearning.result import History


def test_each_recorded_column_is_a_curve_over_the_steps_that_have_it():
    made = examples.history(12)
    curves = {t.name: t for t in history(made).data}
    assert set(curves) == {"loss", "forget", "retain", "grad norm", "forget score"}
    assert list(curves["loss"].y) == [r["loss"] for r in made.rows]
    assert list(curves["forget score"].x) == [0, 5, 10]


def test_a_sweep_is_drawn_over_its_coefficients():
    rows = tuple({"coefficient": c, "forget_score": 1 - c} for c in (0.0, 0.5, 1.0))
    fig = history(History(rows=rows))
    (curve,) = fig.data
    assert list(curve.x) == [0.0, 0.5, 1.0]
    assert fig.layout.xaxis.title.text == "coefficient"
