"""Probes of attention and rounding are rows of a recovery like any other, on the same common set."""

import pytest

from tests.evaluation.world import benchmark, retrained, trained
from unpact_lens.attribution import TopK
from unpact_lens.errors import InputError
from unpact_lens.recovery import ADDED, add_probes, recovery_plan, run_plan


@pytest.fixture(scope="module")
def run():
    plan = recovery_plan(benchmark(), before=trained(), control=retrained(), probes=(), progress=False, rule=TopK(2))
    return plan, run_plan(retrained(), plan, progress=False)


def test_added_rows_have_rates_controls_and_excess(run):
    plan, recovery = run
    more = add_probes(recovery, plan, retrained(), before=trained(), control=retrained())
    assert more.probes == (*recovery.probes, "attention", "random_words:attention", "quantize_8", "quantize_4")
    assert more.n_common == recovery.n_common
    assert set(ADDED) <= set(more.excess_probes)
    assert more.excess("quantize_8").value == more.excess("attention").value == 0  # the control itself
    assert more.net("random_words", "attention").n > 0
    assert more.right_before[more.probes.index("quantize_8")].double().mean() > 0.8
    assert list(more.to_frame()["probe"])[-2:] == ["quantize_4", "retrain"]


def test_bad_input_is_named(run):
    plan, recovery = run
    with pytest.raises(InputError, match="unknown probe 'quantise_8'; did you mean 'quantize_8'"):
        add_probes(recovery, plan, retrained(), before=trained(), control=retrained(), probes=["quantise_8"])
    with pytest.raises(InputError, match="give it again: control="):
        add_probes(recovery, plan, retrained(), before=trained())
    more = add_probes(recovery, plan, retrained(), before=trained(), control=retrained(), probes=["quantize_8"])
    with pytest.raises(InputError, match="'quantize_8' is in this recovery already"):
        add_probes(more, plan, retrained(), before=trained(), control=retrained())
