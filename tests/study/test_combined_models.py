"""A cell whose method leaves a combined model has contributions, and no exact diffs."""

import pytest

import unpact_lens as ul
from tests.study.small_study import small_config
from unpact_lens.errors import InputError
from unpact_lens.study import run_study
from unpact_lens.study.config import load_config


def test_a_combined_model_has_contributions_and_says_why_it_has_no_diffs(tmp_path, capsys):
    config = load_config(small_config(tmp_path, methods=["eco"], wrap="bridge"))
    (cell,) = run_study(config, tmp_path / "out").cells
    assert len(cell.focus.before) == config.contributions.forget
    assert cell.diffs == ()
    said = " ".join("".join(capsys.readouterr()).split())
    assert "no exact diffs: a CorruptedNames is a combined model, which has no activations of its own" in said
    assert "<html" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_combined_model_is_refused_by_name_where_activations_are_compared(order):
    model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
    made = ul.unlearn(model, bench.forget[:2], method="in_context", retains=0, progress=False).model
    before, after = ((model, made)[i] for i in order)
    which = ("before", "after")[order.index(1)]
    with pytest.raises(InputError, match=f"{which} is a Prefixed, a combined model, which has no activations"):
        ul.diff(before, after, bench.forget[0])
