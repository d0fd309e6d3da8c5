"""`settings="auto"` chooses what brute force would, says what it costs, and gives the run of its choice."""

import pytest
import torch

from unpact_lens.data.benchmark import Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.generate import generate_answers
from unpact_lens.results import load
from unpact_lens.unlearning import StopRule, auto_settings, unlearn
from unpact_lens.unlearning.auto_settings import FACTORS, AutoSearch
from unpact_lens.unlearning.registry import default_settings, find
from unpact_lens.unlearning.result import Trial

FIXED = {"steps": 16, "check_every": 2, "batch_size": 6, "progress": False}


@pytest.fixture
def bench(facts):
    retain, validation, unseen = facts[1][:6], facts[1][6:10], facts[1][10:]
    return Benchmark("toy", facts[0], retain, validation=validation, unseen=unseen, max_new_tokens=8)


def default_lr(model, method):
    return default_settings(find(method), model, {})["lr"]


def share_lost(model, items):
    answers = generate_answers(model, [q.prompt for q in items], max_new_tokens=8)
    return sum(q.fact not in a.split() for a, q in zip(answers, items, strict=True)) / len(items)


@pytest.mark.hooked
@pytest.mark.parametrize("steps", [16, 24])
def test_the_search_chooses_what_brute_force_chooses(learned, bench, steps):
    fixed = {**FIXED, "steps": steps}
    found = []
    for lr in (default_lr(learned, "ga_gdr") * factor for factor in FACTORS):
        u = unlearn(learned, bench, method="ga_gdr", stop_at=0.1, lr=lr, **fixed)
        if u.forgotten >= 0.9:
            found.append((share_lost(u.model, bench.validation), lr))
    assert len({lost for lost, _ in found}) > 1  # otherwise the choice would be trivial
    assert found[0][0] > min(found)[0]  # and the first rate that forgets is not the best one
    u = unlearn(learned, bench, method="ga_gdr", settings="auto", **fixed)
    least = min(lost for lost, _ in found)
    assert u.config["lr"] == next(lr for lost, lr in found if lost == least)
    assert {t.lr: t.lost for t in u.search if t.reached} == {lr: lost for lost, lr in found}
    assert {t.scored for t in u.search} == {"validation facts"}


def test_the_result_is_the_run_with_the_chosen_settings(learned, bench, tmp_path):
    before = model_hash(learned)
    u = unlearn(learned, bench, method="ga_gdr", settings="auto", seed=3, **FIXED)
    assert model_hash(learned) == before == u.hash_before
    again = unlearn(learned, bench, method="ga_gdr", stop_at=0.1, seed=3, lr=u.config["lr"], **FIXED)
    assert again.search == ()
    assert all(torch.equal(a, b) for a, b in zip(u.model.parameters(), again.model.parameters(), strict=True))
    assert u.history.rows == again.history.rows
    assert u.config == again.config
    assert unlearn(learned, bench, method="ga_gdr", settings="auto", seed=3, **FIXED).search == u.search
    kept = load(u.save(tmp_path / "unlearned"))
    assert kept.search == u.search
    assert isinstance(kept.search[0], Trial)


def test_rates_below_one_that_missed_are_not_tried(learned, bench):
    u = unlearn(learned, bench, method="ga_gdr", settings="auto", **FIXED)
    lr = default_lr(learned, "ga_gdr")
    assert [t.lr for t in u.search] == [lr, 3 * lr, 10 * lr]
    assert not u.search[0].reached
    assert u.search[0].lost is None


def test_given_settings_are_fixed(learned, bench):
    u = unlearn(learned, bench, method="ga_gdr", settings="auto", **FIXED)
    assert {t.steps for t in u.search} == {16} == {u.config["steps"]}
    u = unlearn(learned, bench, method="ga", settings="auto", lr=2e-5, batch_size=6, progress=False)
    assert [(t.lr, t.steps) for t in u.search] == [(2e-5, 60), (2e-5, 180)]
    assert (u.config["lr"], u.config["steps"]) == (2e-5, max(u.search, key=lambda t: t.forgotten).steps)


def test_if_no_rate_reaches_the_level_the_result_says_so(learned, bench):
    u = unlearn(learned, bench, method="idk_ft", settings="auto", **{**FIXED, "steps": 2})
    assert not any(t.reached for t in u.search)
    assert u.forgotten == max(t.forgotten for t in u.search)
    assert "misses the level asked for, 0.90" in u.warnings[0]


def test_the_level_of_the_caller_is_searched(learned, bench):
    for rule in (0.5, StopRule(forget=0.5)):
        u = unlearn(learned, bench, method="ga_gdr", settings="auto", stop_at=rule, **FIXED)
        assert u.config["stop_at"]["forget"] == 0.5
        assert any(t.reached and 0.5 <= t.forgotten < 0.9 for t in u.search)
    floor = unlearn(learned, bench, method="ga_gdr", settings="auto", stop_at=StopRule(retain=0.0), **FIXED)
    assert floor.config["stop_at"] == {"forget": 0.1, "retain": 0.0}


def test_facts_to_keep_are_validation_facts_else_the_retain_set_else_none(learned, facts, capsys):
    forget, retain = facts
    fixed = {**FIXED, "progress": True}
    u = unlearn(learned, forget, retain, method="ga_gdr", settings="auto", **fixed)
    assert {t.scored for t in u.search} == {"retain facts"}
    chosen = next(t for t in u.search if t.lr == u.config["lr"])
    assert chosen.lost == pytest.approx(share_lost(u.model, retain))
    assert "loses the fewest retain facts" in capsys.readouterr().err
    u = unlearn(learned, forget, method="ga", settings="auto", **fixed)
    assert [t.reached for t in u.search] == [False, True]  # the first one that reaches the level
    assert {(t.scored, t.lost) for t in u.search} == {(None, None)}
    assert "the first one (no facts to keep are given)" in capsys.readouterr().err
    u = unlearn(learned, forget, method="ga", settings="auto", retain_score=lambda model: 0.75, **fixed)
    assert {t.lost for t in u.search if t.reached} == {0.25}


def test_the_cost_is_announced(learned, bench, capsys):
    unlearn(learned, bench, method="ga_gdr", settings="auto", check_every=2, batch_size=6)
    first, cost, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("searching the settings of ga_gdr: at most 6 runs from the original model")
    assert cost.startswith("a run of 60 steps takes at most about ")
    assert "after 120 s no further run starts once one has reached the level" in cost
    assert last.startswith("chosen after ")
    unlearn(learned, bench, method="ga_gdr", settings="auto", **FIXED)
    assert capsys.readouterr().err == ""


def test_when_the_time_is_over_the_best_so_far_is_taken(learned, bench, monkeypatch):
    monkeypatch.setattr(auto_settings, "SECONDS", -1.0)
    u = unlearn(learned, bench, method="ga_gdr", settings="auto", **FIXED)
    assert [t.reached for t in u.search] == [False, True]
    assert u.config["lr"] == u.search[1].lr


def test_a_finished_search_is_not_made_again(learned, bench, tmp_path, monkeypatch):
    u = unlearn(learned, bench, method="ga_gdr", settings="auto", checkpoint=tmp_path, **FIXED)
    with monkeypatch.context() as patched:
        patched.setattr(AutoSearch, "best", None)
        again = unlearn(learned, bench, method="ga_gdr", settings="auto", checkpoint=tmp_path, **FIXED)
    assert again.search == u.search
    assert all(torch.equal(a, b) for a, b in zip(u.model.parameters(), again.model.parameters(), strict=True))
    with pytest.raises(InputError, match="is of another search; give an empty directory, or the same arguments"):
        unlearn(learned, bench, method="ga_gdr", settings="auto", checkpoint=tmp_path, seed=1, **FIXED)


@pytest.mark.parametrize(
    ("method", "settings", "given", "message"),
    [
        ("ga", "best", {}, r"settings='best'; give settings='auto', or each hyperparameter by name, e\.g\. lr=1e-5"),
        ("ga", {"lr": 1.0}, {}, r"settings=\{'lr': 1\.0\}; give settings='auto'"),
        ("ga", "auto", {"lr": 1e-4, "steps": 3}, "has nothing to search: lr and the number of steps are given"),
        ("task_vector", "auto", {}, r"'task_vector' forms its result otherwise; give stop_at=.*\(coefficient, "),
        ("memit", "auto", {}, r"'memit' forms its result otherwise; .* own hyperparameters \(layer, hold"),
        ("ga", "auto", {"rate": 1}, "unknown setting 'rate'"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(learned, bench, method, settings, given, message):
    with pytest.raises(InputError, match=message):
        unlearn(learned, bench, method=method, settings=settings, progress=False, **given)


def test_raw_text_without_questions_is_refused(learned):
    text = Corpus(("ann was born in rome",))
    with pytest.raises(InputError, match="measures F, and there are no questions to score; give forget_score="):
        unlearn(learned, text, method="ga", settings="auto", progress=False)
