"""The probe `sampling` is leak@8 with eight samples, and finds a fact that is given in some answers only."""

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained
from tests.recovery.probes.hiding import rarely_right
from unpact_lens.recovery import recover
from unpact_lens.recovery.probes.sampling import SAMPLES
from unpact_lens.recovery.sampling import leak, leak_at_k


@pytest.fixture(scope="module")
def found():
    return recover(
        rarely_right(), benchmark(), before=trained(), control=retrained(), probes=("sampling",),
        templates=["focus_list"], progress=False,
    )  # fmt: skip


def test_a_fact_given_in_a_third_of_the_answers_is_found(found):
    assert found.n_common == 8
    assert found.rate("sampling").value == 1
    assert found.rate("wrong_subject:sampling").value == 0
    assert found.excess("sampling").value > 0.5


def test_the_rate_of_the_original_model_is_its_leak():
    bench = benchmark()
    recovery = recover(retrained(), bench, before=trained(), probes=("sampling",), seed=3, progress=False)
    row = recovery.probes.index("sampling")
    own = leak(trained(), bench.forget, bench=bench, samples=SAMPLES, seed=3)
    expected = torch.tensor([leak_at_k(SAMPLES, c, SAMPLES) for c in own.held.tolist()])
    assert recovery.right_before[row].double().mean() == pytest.approx(float(expected.mean()), abs=0.13)


def test_draws_depend_on_the_seed_only():
    kwargs = {"before": trained(), "probes": ("sampling",), "templates": ["focus_list"], "progress": False}
    once, again = (recover(rarely_right(), benchmark(), **kwargs) for _ in range(2))
    assert once == again
