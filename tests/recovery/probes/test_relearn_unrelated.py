"""What is trained on names no forget fact and no subject; it is fixed in the plan, and a plan can be loaded."""

from dataclasses import replace

import pytest

from tests.evaluation.world import FILLERS, benchmark, retrained, trained
from tests.recovery.probes.hiding import refusing_everything
from unpact_lens.data.benchmark import Corpus
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import holds_fact
from unpact_lens.recovery import recover, recovery_plan, run_plan
from unpact_lens.recovery.probes import relearn as relearning
from unpact_lens.recovery.probes.relearn_unrelated import MOST_TEXTS, unrelated_texts
from unpact_lens.results import load, save

OPTIONS = {"probes": ("relearn_unrelated",), "templates": ["focus_list"], "relearn": {"lr": 1e-3, "steps": 3}}


def test_texts_that_name_a_subject_or_hold_a_fact_are_left_out():
    bench = benchmark()
    fact, name = bench.forget[0].fact, bench.forget[3].subject
    texts = (*FILLERS, f"a town : {fact} .", f"{name} is here")
    assert unrelated_texts(replace(bench, plain_text=Corpus(texts))) == FILLERS
    assert len(unrelated_texts(replace(bench, plain_text=Corpus(FILLERS * 100)))) == MOST_TEXTS


def test_only_these_texts_are_trained_on_with_the_hyperparameters_of_relearning(tmp_path, monkeypatch):
    bench = benchmark()
    plan = recovery_plan(bench, before=trained(), control=retrained(), progress=False, **OPTIONS)
    assert plan.bench.plain_text.texts == FILLERS
    assert not plan.taught.any()
    save(plan, tmp_path / "plan")
    read, real = [], relearning.examples

    def examples(model, source, settings, what):
        assert isinstance(source, Corpus)
        assert (settings.lr, settings.steps) == (1e-3, 3)
        read.extend(source.texts)
        return real(model, source, settings, what)

    monkeypatch.setattr(relearning, "examples", examples)
    found = run_plan(retrained(), load(tmp_path / "plan"), progress=False)
    assert read == list(FILLERS)  # once for both rows
    assert not any(holds_fact(text, q.fact) for text in read for q in bench.forget)
    assert {"relearn_unrelated", "wrong_subject:relearn_unrelated"} <= set(found.probes)
    assert "relearn" not in found.probes
    assert found.excess("relearn_unrelated").value == 0  # the unlearned model is the retrained model itself


def test_a_plan_without_this_probe_keeps_no_texts():
    plan = recovery_plan(benchmark(), before=trained(), probes=(), templates=["focus_list"], progress=False)
    assert plan.bench.plain_text is None


def test_a_refusal_that_unrelated_questions_undo_is_found():
    bench = benchmark()
    # Questions about other people with the start of an answer, which holds no fact.
    texts = Corpus(tuple(f"{q.prompt}{q.answer_prefix}" for q in bench.retain))
    found = recover(
        refusing_everything(), replace(bench, plain_text=texts), before=trained(), control=retrained(),
        probes=("relearn_unrelated",), templates=["focus_list"], relearn={"lr": 1e-3, "steps": 12}, progress=False,
    )  # fmt: skip
    assert found.n_common >= 5
    assert found.rate("relearn_unrelated").value >= 0.5
    assert found.excess("relearn_unrelated").value > 0.1


def test_a_benchmark_without_unrelated_text_is_refused():
    bare = replace(benchmark(), plain_text=None, retain=(), general=())
    with pytest.raises(InputError, match="probe 'relearn_unrelated' trains on unrelated text, and benchmark 'village'"):
        recovery_plan(bare, before=trained(), progress=False, **OPTIONS)


def test_training_that_changes_no_weight_is_refused():
    with pytest.raises(InputError, match="relearning at lr=1e-30 changes no weight of this model; give relearn= a lar"):
        relearning.relearned(trained(), benchmark().forget, benchmark(), lr=1e-30, steps=1)
