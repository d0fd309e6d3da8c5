"""Probes on combined models ask what they can, and name the hook that a combined model lacks."""

import dataclasses

import pytest

import unpact_lens as ul
from unpact_lens.errors import InputError

OPTIONS = {
    "eco": {"strength": 4.0},
    "in_context": {"forgets": 2, "retains": 2},
    "whp_inference": {"reinforce_steps": 2},
}


@pytest.fixture(scope="module")
def few():
    """The embedded model and the facts of two subjects."""
    bench = ul.load_benchmark("builtin")
    return ul.load_model("builtin"), dataclasses.replace(bench, forget=bench.forget[:12], unknown=bench.unknown[:4])


@pytest.mark.parametrize("method", OPTIONS)
def test_probes_of_prompts_and_weights_run_on_a_combined_model_and_those_inside_it_are_refused(few, method):
    model, bench = few
    u = ul.unlearn(model, bench, method=method, progress=False, **OPTIONS[method])
    asked = ["prefill", "paraphrase", "quantize_8", "noise"]
    found = ul.recover(u.model, bench, before=model, probes=asked, progress=False)
    assert {"prefill", "paraphrase", "quantize_8"} <= set(found.to_frame().astype(str).to_numpy().ravel())
    with pytest.raises(InputError, match=r"hook 'blocks\..*': a combined model has only 'blocks\.\d\.hook_resid_post'"):
        ul.recover(u.model, bench, before=model, probes=["logit_lens"], progress=False)
