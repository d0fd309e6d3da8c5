"""A plan is fixed once. Its run follows the definitions and asks no prompt that cannot count."""

import importlib
import math
from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained, untrained
from unpact_lens.attribution import TopK
from unpact_lens.errors import InputError
from unpact_lens.evaluation import answers as asking
from unpact_lens.evaluation.known_facts import known_facts
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.recovery import recover, recovery_plan, run_plan
from unpact_lens.recovery.probes.emphasis import key_words
from unpact_lens.recovery.probes.quantize import quantized
from unpact_lens.recovery.result import RELEARN
from unpact_lens.results import load, save

RELEARN_SETTINGS = {"lr": 5e-3, "steps": 6, "share": 0.2}


@pytest.fixture(scope="module")
def plan():
    return recovery_plan(
        benchmark(), before=trained(), control=retrained(), relearn=RELEARN_SETTINGS, progress=False, rule=TopK(2)
    )


@pytest.fixture(scope="module")
def recovery(plan):
    return run_plan(retrained(), plan, progress=False)


def test_the_original_model_is_right_under_every_compared_prompt(plan):
    assert bool(plan.candidates.all())
    assert plan.set_apart == {}
    assert plan.compared == tuple(r for r in plan.sheet.rows if r != "wrong_subject")


def test_the_wrong_subject_does_not_give_the_answer(plan):
    assert not plan.right_before[plan.sheet.rows.index("wrong_subject")].any()


def test_the_original_model_has_an_empty_common_set(plan):
    recovery = run_plan(trained(), plan, progress=False)
    assert bool(recovery.plain_after.all())
    assert recovery.n_common == 0
    assert recovery.net_worst is None


def test_the_retrained_model_has_an_excess_of_exactly_0(recovery):
    assert recovery.n_common >= 6
    for probe, excess in recovery.excesses.items():
        assert (excess.value, excess.only_first, excess.only_second) == (0, 0, 0), probe
    assert recovery.net("retrain").value == 0


def test_the_rows_are_those_of_the_plan_then_relearning(plan, recovery):
    assert recovery.probes == (*plan.sheet.rows, RELEARN)
    assert recovery.families[-1] == "probe"
    assert recovery.asked[-1].tolist() == (~plan.taught).tolist()
    assert recovery.settings["relearn_taught"] == int(plan.taught.sum()) == 2
    assert recovery.settings["relearn"]["lr"] == 5e-3
    assert recovery.settings["relearn_taught_right"] == 1.0


def test_batched_answers_equal_those_of_each_prompt_alone(plan, recovery):
    row = recovery.probes.index("reminder")
    for i, qa in enumerate(plan.sheet.items):
        if recovery.common[i]:
            said = asking.ask(retrained(), [plan.sheet.prompts[row][i]], [""], bench=plan.bench)[0]
            assert bool(recovery.right_after[row, i]) is asking.fact_right(said, qa)


def test_recover_equals_recovery_plan_then_run_plan(plan, recovery):
    models = [retrained(), trained()]
    hashes = [model_hash(m) for m in models]
    once = recover(
        models[0], benchmark(), before=models[1], control=retrained(), relearn=RELEARN_SETTINGS, rule=TopK(2),
        progress=False,
    )  # fmt: skip
    assert once == recovery
    assert [model_hash(m) for m in models] == hashes


def test_prompts_that_cannot_count_are_not_asked(plan, monkeypatch):
    asked = []
    real = asking.generate_answers
    monkeypatch.setattr(
        asking, "generate_answers", lambda model, prompts, **k: asked.extend(prompts) or real(model, prompts, **k)
    )
    unasked = replace(
        plan,
        relearn=None,
        right_control=None,
        plain_before=torch.zeros_like(plan.plain_before),
        settings={**plan.settings, "n_examples": 0},
    )
    run_plan(retrained(), unasked, progress=False)
    assert sorted(asked) == sorted(q.prompt for q in plan.sheet.items)


def test_examples_show_the_facts_drawn_by_the_seed_under_every_row(plan, recovery):
    ids = [e.id for e in recovery.examples]
    assert len(dict.fromkeys(ids)) == 3
    first = [e for e in recovery.examples if e.id == ids[0]]
    assert {e.probe for e in first} == {"plain", *recovery.probes}
    assert recovery.examples_frame().shape == (len(ids), 6)
    again = run_plan(trained(), plan, progress=False)
    assert list(dict.fromkeys(e.id for e in again.examples)) == list(dict.fromkeys(ids))


def test_plans_and_recoveries_are_saved_and_loaded_without_loss(plan, recovery, tmp_path):
    for name, result in (("plan", plan), ("recovery", recovery)):
        save(result, tmp_path / name)
        assert load(tmp_path / name) == result
    assert run_plan(retrained(), load(tmp_path / "plan"), progress=False) == recovery
    assert plan.to_frame().shape[0] == 8


def test_templates_under_which_the_original_model_fails_are_excluded():
    # A random model is right nowhere, so every template but the headline falls short of any share.
    plan = recovery_plan(benchmark(), before=untrained(), probes=(), progress=False)
    assert set(plan.set_apart) == {"quotes", "doubled", "reminder", "repeat_question"}
    assert {r for r in plan.sheet.rows if "quotes" in r or "doubled" in r} == set()
    assert plan.candidates.sum() == 0
    assert plan.relearn is None


def test_facts_that_a_prompt_gives_away_are_excluded_with_the_reason():
    bench = benchmark()
    given = replace(bench.forget[0], paraphrases=("does ann live in oslo ?",))
    plan = recovery_plan(replace(bench, forget=(given, *bench.forget[1:])), before=trained(), probes=(), progress=False)
    assert plan.excluded == {"place/ann": "the paraphrase prompt holds the fact"}
    assert plan.candidates.tolist() == [False] + [True] * 7


def test_never_known_facts_replace_a_missing_retrained_model():
    bench, model = benchmark(), retrained()
    known = known_facts(model, replace(bench, forget=(*bench.near, *bench.forget)))
    plan = recovery_plan(known, before=model, relearn=RELEARN_SETTINGS, progress=False)
    assert {q.id for q in plan.never_sheet.items} <= {q.id for q in known.unknown}
    recovery = run_plan(untrained(), plan, progress=False)
    assert recovery.stand_in == "wrong subject and never-known facts"
    assert recovery.never_asked.shape == (len(recovery.probes), len(plan.never_sheet.items))
    assert not recovery.never_asked[recovery.probes.index("unrelated")].any()
    assert bool(recovery.never_asked[recovery.probes.index(RELEARN)].all())
    assert recovery.never_rate("prefill").n == len(plan.never_sheet.items) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probes": ("prefil",)}, "unknown probe 'prefil'; did you mean 'prefill'"),
        ({"probes": "prefill"}, "probes='prefill' is one text"),
        ({"templates": ("quote", "focus_list")}, "unknown emphasis template 'quote'"),
        ({"relearn": {"learning_rate": 1}}, "unknown setting 'learning_rate'"),
        ({"key_tokens": "gold"}, "key_tokens='gold'; known are 'after', 'answer_free', 'oracle'"),
        ({"key_tokens": "after"}, "those of the unlearned model; give it"),
        ({"min_before": 1.5}, "min_before=1.5"),
    ],
)
def test_wrong_options_are_refused_before_any_model_is_asked(changes, message, monkeypatch):
    monkeypatch.setattr(asking, "generate_answers", None)
    with pytest.raises(InputError, match=message):
        recovery_plan(benchmark(), before=trained(), progress=False, **changes)


def test_a_benchmark_without_forget_facts_is_refused():
    with pytest.raises(InputError, match="benchmark 'village' has no forget facts"):
        recovery_plan(replace(benchmark(), forget=()), before=trained())


def test_control_words_depend_on_the_seed():
    sheets = [
        recovery_plan(benchmark(), before=trained(), seed=s, probes=(), rule=TopK(1), progress=False).sheet
        for s in (0, 0, 5)
    ]
    assert sheets[0] == sheets[1]
    assert sheets[0] != sheets[2]
    assert sheets[0].only(["focus_list", "reminder"]) == sheets[2].only(["focus_list", "reminder"])


def test_key_tokens_after_emphasises_those_of_the_unlearned_model():
    bench, after = benchmark(), retrained()
    settings = {"before": trained(), "probes": (), "rule": TopK(3), "progress": False}
    plan = recovery_plan(bench, after=after, key_tokens="after", **settings)
    assert list(plan.keys) == key_words(after, bench.forget, bench, rule=TopK(3), progress=False)
    assert plan.keys != recovery_plan(bench, after=after, **settings).keys
    recovery = recover(after, bench, key_tokens="after", **settings)
    assert recovery.settings["key_tokens"] == "after"
    assert recovery.oracle
    assert "KeyTokens of the unlearned model" in recovery.plot().layout.title.subtitle.text.replace("<br>", " ")


def test_the_rate_of_a_headline_without_prompts_is_undefined(monkeypatch):
    module = importlib.import_module("unpact_lens.recovery.recover")
    monkeypatch.setattr(module, "key_words", lambda model, items, *_, **__: [()] * len(items))
    plan = recovery_plan(benchmark(), before=trained(), probes=(), progress=False)
    recovery = run_plan(retrained(), plan, progress=False)
    assert recovery.n_common == 0
    assert math.isnan(recovery.rate(recovery.headline).value)


def test_a_probe_that_changes_nothing_of_the_model_is_left_out_with_the_reason_and_the_others_are_asked():
    probes = ("prefill", "quantize_4")
    plan = recovery_plan(benchmark(), before=trained(), control=retrained(), probes=probes, progress=False)
    found = run_plan(quantized(retrained(), 4), plan, progress=False)
    assert found.settings["without_effect"] == {
        "quantize_4": "rounding to 4 bits changes no weight of this model; the weights are rounded already; "
        "use fewer bits"
    }
    row = found.probes.index("quantize_4")
    assert not found.asked[row].any()
    assert not found.right_after[row].any()
    assert found.excesses["quantize_4"].n == 0
    assert found.excesses["prefill"].n == found.n_common > 0
    assert run_plan(retrained(), plan, progress=False).settings["without_effect"] == {}
