"""`keep="best"` gives the weights of the best check, by a stated rule."""

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning import StopRule, unlearn
from unpact_lens.unlearning.keep_best import criterion

RUN = {"method": "npo", "lr": 1e-3, "steps": 6, "batch_size": 4, "check_every": 2, "progress": False,
       "max_new_tokens": 8}  # fmt: skip


def scripted(values):
    """Return a score that gives these values in turn, one for each check."""
    left = list(values)
    return lambda model: left.pop(0)


def row(forget, retain):
    return {"forget_score": forget, "retain_score": retain}


def test_the_rule_on_paper():
    assert criterion(row(0.2, 0.8), None, None) == (True, True, pytest.approx(0.8))
    assert criterion(row(0.5, 1.0), None, None)[2] == pytest.approx(2 / 3)  # harmonic mean of .5 and 1
    assert criterion(row(1.0, 1.0), None, None)[2] == criterion(row(0.0, 0.0), None, None)[2] == 0
    ranked = [row(0.0, 0.4), row(0.9, 0.9), row(0.2, 0.6), row(0.1, 0.6), row(0.05, 0.7)]
    by = sorted(ranked, key=lambda r: criterion(r, 0.1, 0.5))
    # below the floor, then above the level, then by harmonic mean
    assert by == ranked


@pytest.mark.parametrize("method", ["npo", "lora_npo"])
def test_the_result_has_the_weights_of_the_best_check(learned, facts, method):
    given = {**RUN, "method": method}
    # checks at steps 0, 2, 4, 6: the original model never counts
    scores = {"forget_score": [0.0, 0.5, 0.2, 0.1], "retain_score": [1.0, 0.9, 0.8, 0.1]}
    u = unlearn(learned, *facts, keep="best", **{k: scripted(v) for k, v in scores.items()}, **given)
    assert (u.kept, u.forget_score, u.forgotten) == (4, 0.2, 0.8)
    assert "6 steps, step 4 kept" in repr(u)
    last = unlearn(learned, *facts, **given)
    assert last.kept is None
    assert model_hash(u.model) == model_hash(unlearn(learned, *facts, **{**given, "steps": 4}).model)
    assert model_hash(u.model) != model_hash(last.model)


def test_the_last_check_may_be_the_best(learned, facts):
    u = unlearn(
        learned, *facts, keep="best", forget_score=scripted([1, 0.5, 0.4, 0.1]), retain_score=lambda m: 1, **RUN
    )
    assert (u.kept, u.forget_score) == (None, 0.1)
    assert model_hash(u.model) == model_hash(unlearn(learned, *facts, **RUN).model)


def test_a_broken_floor_goes_back_to_the_check_above_it(learned, facts):
    u = unlearn(
        learned, *facts, keep="best", stop_at=StopRule(forget=0.1, retain=0.7),
        forget_score=scripted([1, 0.5, 0.0]), retain_score=scripted([1, 0.8, 0.6]), **RUN,
    )  # fmt: skip
    assert (u.stopped, u.kept, u.forget_score) == ("forget level reached", 2, 0.5)
    assert any("misses the level asked for" in w for w in u.warnings)


def test_scores_are_those_of_the_validation_facts_if_none_are_given(learned, facts):
    u = unlearn(learned, *facts, keep="best", **{**RUN, "lr": 3e-2})
    checked = [r for r in u.history.rows if r["step"] and "retain_score" in r]
    best = max(checked, key=lambda r: criterion(r, None, None))
    assert [r["step"] for r in checked] == [2, 4, 6]
    assert (u.kept or 6) == best["step"]
    assert u.forgotten == 1 - best["forget_score"]


def test_a_resumed_run_keeps_the_same(learned, facts, tmp_path):
    values = [1, 0.3, 0.5, 0.6]
    given = {**RUN, "keep": "best", "retain_score": full}
    whole = unlearn(learned, *facts, forget_score=scripted(values), **given)
    assert whole.kept == 2

    def breaks(check):
        if check.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(learned, *facts, forget_score=Scripted(values), checkpoint=tmp_path, checkpoint_every=3,
                on_check=breaks, **given)  # fmt: skip
    resumed = unlearn(learned, *facts, forget_score=Scripted(values[2:]), checkpoint=tmp_path, checkpoint_every=3,
                      **given)  # fmt: skip
    assert resumed.kept == 2
    assert resumed.history == whole.history
    assert model_hash(resumed.model) == model_hash(whole.model)
    again = unlearn(learned, *facts, forget_score=Scripted([]), checkpoint=tmp_path, checkpoint_every=3, **given)
    assert model_hash(again.model) == model_hash(whole.model)  # a finished run is not run again


def full(model):
    return 1.0


class Scripted:
    """Give values in turn; a checkpoint knows a score by its class."""

    def __init__(self, values):
        self.left = list(values)

    def __call__(self, model):
        return self.left.pop(0)


def test_a_diverged_run_goes_back_to_its_best_check(learned, facts):
    model = learned.to(torch.float32)
    with pytest.warns(RuntimeWarning):
        u = unlearn(model, facts[0], method="ga", lr=1e30, steps=3, check_every=1, progress=False, keep="best",
                    forget_score=lambda m: 0.5, retain_score=lambda m: 0.5)  # fmt: skip
    assert u.warnings[0].startswith("training diverged: ")


def test_what_is_missing_is_named(learned, facts):
    with pytest.raises(InputError, match='keep="best" needs retain_score, but there are no questions'):
        unlearn(learned, facts[0], method="ga", keep="best", progress=False)
    with pytest.raises(InputError, match="keep='first'; give 'last' or 'best'"):
        unlearn(learned, *facts, keep="first", progress=False)
