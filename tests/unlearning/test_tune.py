"""A search keeps all trials, takes the best of those that reach the level, and repeats with equal seeds."""

import importlib
import sys
from dataclasses import replace

import pytest

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.splits import RetainSplit
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.generate import generate_answers
from unpact_lens.results import load
from unpact_lens.unlearning import StopRule, tune, unlearn

early_stopping = importlib.import_module("unpact_lens.unlearning.early_stopping")
request_module = importlib.import_module("unpact_lens.unlearning.request")
watched_module = importlib.import_module("unpact_lens.unlearning.watched")

FIXED = {"steps": 16, "check_every": 2, "batch_size": 6}


@pytest.fixture
def bench(facts):
    retain, validation, unseen = facts[1][:6], facts[1][6:10], facts[1][10:]
    return Benchmark("toy", facts[0], retain, validation=validation, unseen=unseen, max_new_tokens=8)


def test_best_trial_destroys_least_at_the_level(learned, bench, tmp_path):
    before = model_hash(learned)
    space = {"lr": (1e-5, 1e-2), "alpha": (0.1, 3.0)}
    t = tune("ga_gdr", learned, bench, budget=6, level=0.34, space=space, seed=0, **FIXED)
    assert model_hash(learned) == before
    assert len(t.trials) == 6
    assert all(1e-5 <= r["lr"] <= 1e-2 and 0.1 <= r["alpha"] <= 3 for r in t.trials)
    assert {r["reached"] for r in t.trials} == {True, False}  # otherwise the test would be trivial
    for r in t.trials:
        assert r["reached"] == (r["forget_score"] <= 0.34)
        assert r["reached"] == (r["stopped"] == "forget level reached")
        assert r["reached"] or r["value"] == 1 + r["forget_score"]
    reached = [r for r in t.trials if r["reached"]]
    assert t.value == min(r["value"] for r in reached)
    u = unlearn(learned, bench, method="ga_gdr", seed=0, stop_at=StopRule(0.34), progress=False, **FIXED, **t.best)
    answers = generate_answers(u.model, [q.prompt for q in bench.validation], max_new_tokens=8)
    wrong = [q.fact not in a.split() for a, q in zip(answers, bench.validation, strict=True)]
    assert t.value == pytest.approx(sum(wrong) / len(wrong))
    assert max(r["step"] for r in u.history.rows) == next(r["steps_run"] for r in reached if r["lr"] == t.best["lr"])
    frame = t.to_frame()
    assert frame.iloc[0].lr == t.best["lr"]
    assert frame.reached.tolist() == sorted(frame.reached, reverse=True)
    assert load(t.save(tmp_path / "tuning")) == t
    split = replace(bench, retain_split=RetainSplit((0.4, 0.3, 0.3), 7))
    assert tune("ga_gdr", learned, split, budget=1, **FIXED).retain_split == split.retain_split
    u = unlearn(learned, split, method="ga_gdr", progress=False, **{**FIXED, "steps": 1})
    assert load(u.save(tmp_path / "unlearned")).config["retain_split"] == split.retain_split


def test_the_objective_is_minimised_among_runs_that_reach_the_level(learned, bench):
    """Even if it is larger than what a run that misses the level counts."""
    seen = []

    def objective(u):
        seen.append(u.config["lr"])
        return 100 - u.config["lr"]

    t = tune("ga", learned, bench, budget=5, level=0.34, objective=objective, space={"lr": (1e-5, 1e-2)}, **FIXED)
    assert 0 < len(seen) < 5
    assert t.best == {"lr": max(seen)}
    assert t.value == 100 - max(seen)
    assert t.to_frame().lr[0] == max(seen)


def test_a_search_never_touches_unseen_facts(learned, bench, monkeypatch):
    asked, taught = set(), set()
    generate, tokenised = early_stopping.generate_answers, request_module.examples

    def answers(model, prompts, **options):
        asked.update(prompts)
        return generate(model, prompts, **options)

    def examples(model, source, *rest):
        taught.update(q.prompt for q in source)
        return tokenised(model, source, *rest)

    monkeypatch.setattr(early_stopping, "generate_answers", answers)
    monkeypatch.setattr(request_module, "examples", examples)
    tune("ga_gdr", learned, bench, budget=2, level=1.0, **FIXED)
    prompts = {name: {q.prompt for q in getattr(bench, name)} for name in ("forget", "retain", "validation", "unseen")}
    assert asked == prompts["forget"] | prompts["validation"]
    assert taught == prompts["forget"] | prompts["retain"]
    assert not (asked | taught) & prompts["unseen"]
    whole = replace(bench, validation=())
    with pytest.raises(InputError, match=r"benchmark 'toy' has no validation facts to tune on; split its retain facts"):
        tune("ga_gdr", learned, whole, budget=1, **FIXED)
    assert tune("ga_gdr", learned, whole, budget=1, level=1.0, objective=lambda u: 0.5, **FIXED).value == 0.5


def test_a_retain_floor_watches_validation_facts(learned, bench, monkeypatch):
    watched = []
    monkeypatch.setattr(
        watched_module, "FactsKnown", lambda model, items, settings: watched.append(tuple(items)) or (lambda m: 1.0)
    )
    rule = StopRule(retain=0.5)
    unlearn(learned, bench, method="ga_gdr", stop_at=rule, progress=False, steps=1, batch_size=4)
    unlearn(
        learned, replace(bench, validation=()), method="ga_gdr", stop_at=rule, progress=False, steps=1, batch_size=4
    )
    assert watched[:2] == [tuple(bench.validation), tuple(bench.retain)]


def test_equal_seeds_repeat_the_search_and_whole_numbers_stay_whole(learned, bench):
    settings = {"budget": 2, "level": 0.0, "space": {"lr": (1e-6, 2e-6), "steps": (1, 3)}}
    one, two, other = (tune("ga", learned, bench, seed=s, **settings) for s in (0, 0, 1))
    assert one == two
    assert one.trials[0]["lr"] != other.trials[0]["lr"]
    assert all(isinstance(r["steps"], int) and r["steps"] == r["steps_run"] <= 3 for r in one.trials)
    assert one.value == 2.0  # at such a rate nothing is forgotten: 1 + a forget score of 1


def test_alpha_is_searched_only_where_there_is_a_retain_term(learned, bench):
    assert set(tune("ga", learned, bench, budget=1, **FIXED).best) == {"lr"}
    assert set(tune("ga_gdr", learned, bench, budget=1, **FIXED).best) == {"lr", "alpha"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget=0; give a positive number of runs"),
        ({"method": "gaa"}, "unknown unlearning method 'gaa'"),
        ({"space": {"lrr": (1e-5, 1e-3)}}, "unknown setting 'lrr'"),
        ({"space": {"lr": (1e-3, 1e-5)}}, r"space\['lr'\]=\(0.001, 1e-05\); give \(low, high\) with 0 < low < high"),
        ({"space": {"alpha": (0.0, 1.0)}}, "give .low, high. with 0 < low < high"),
        ({"level": 2.0}, "forget level=2.0; give a number from 0 to 1"),
    ],
)
def test_bad_input_is_refused_before_any_run(learned, bench, change, message):
    given = {"method": "ga_gdr", **change}
    with pytest.raises(InputError, match=message):
        tune(given.pop("method"), learned, bench, **given)


def test_missing_optuna_is_reported_with_the_install_command(learned, bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r'tune\(\) needs Optuna; install it with: pip install "unpact-lens\[tune\]"'):
        tune("ga", learned, bench)


def test_a_killed_search_goes_on_after_its_finished_runs(learned, bench, tmp_path, monkeypatch):
    space = {"lr": (1e-5, 1e-2), "alpha": (0.1, 3.0)}
    whole = tune("ga_gdr", learned, bench, budget=4, level=0.34, space=space, seed=0, **FIXED)
    ran = []

    def counted(*args, **kwargs):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(kwargs)
        return unlearn(*args, **kwargs)

    monkeypatch.setattr(sys.modules["unpact_lens.unlearning.tune"], "unlearn", counted)
    with pytest.raises(KeyboardInterrupt):
        tune("ga_gdr", learned, bench, budget=4, level=0.34, space=space, seed=0, checkpoint=tmp_path, **FIXED)
    monkeypatch.setattr(
        sys.modules["unpact_lens.unlearning.tune"], "unlearn", lambda *a, **k: ran.append(k) or unlearn(*a, **k)
    )
    again = tune("ga_gdr", learned, bench, budget=4, level=0.34, space=space, seed=0, checkpoint=tmp_path, **FIXED)
    assert again == whole
    assert len(ran) == 4
    with pytest.raises(InputError, match=r"trials\.json is of another search"):
        tune("ga_gdr", learned, bench, budget=4, level=0.34, space=space, seed=1, checkpoint=tmp_path, **FIXED)
    for text in ("{}", "[]", '{"key": 1, "trials": 3}'):
        (tmp_path / "trials.json").write_text(text)
        with pytest.raises(InputError, match=r"trials\.json"):
            tune("ga_gdr", learned, bench, budget=4, level=0.34, space=space, seed=0, checkpoint=tmp_path, **FIXED)
