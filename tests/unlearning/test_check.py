"""A function of the caller sees each check of a run, may stop it, and may log it."""

import numpy as np
import pytest

from unpact_lens.data.benchmark import Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning import METHODS, log_to, unlearn
from unpact_lens.unlearning.job import train_copy

RUN = {"method": "npo", "lr": 1e-3, "steps": 7, "batch_size": 4, "check_every": 3, "progress": False,
       "max_new_tokens": 8}  # fmt: skip


def test_each_check_has_step_f_and_losses_and_changes_nothing(learned, facts):
    seen = []
    watched = unlearn(learned, *facts, on_check=seen.append, **RUN)
    plain = unlearn(learned, *facts, **RUN)
    assert model_hash(watched.model) == model_hash(plain.model)
    assert [c.step for c in seen] == [0, 3, 6, 7]
    assert {c.steps for c in seen} == {7}
    assert seen[0].losses == {}
    assert seen[0].forgotten == 0.0
    assert seen[-1].forgotten == watched.forgotten == plain.forgotten
    rows = {row["step"]: row for row in plain.history.rows}
    for check in seen[1:]:
        assert dict(check.losses) == {k: v for k, v in rows[check.step].items() if k != "step"}
        assert check.numbers() == {**check.losses, "F": check.forgotten}


def test_the_model_of_a_check_is_that_of_its_step(learned, facts):
    hashes = {}
    u = unlearn(learned, *facts, on_check=lambda c: hashes.update({c.step: model_hash(c.model)}), **RUN)
    assert hashes[0] == model_hash(learned)
    assert hashes[7] == model_hash(u.model)
    assert hashes[3] == model_hash(unlearn(learned, *facts, **{**RUN, "steps": 3}).model)


@pytest.mark.parametrize("yes", [True, np.True_])
def test_true_stops_the_run_there(learned, facts, yes):
    u = unlearn(learned, *facts, on_check=lambda c: yes if c.step == 3 else None, **RUN)
    assert (u.stopped, u.history.rows[-1]["step"]) == ("stopped by on_check", 3)
    assert model_hash(u.model) == model_hash(unlearn(learned, *facts, **{**RUN, "steps": 3}).model)


@pytest.mark.parametrize("answer", [False, 1, "yes", [0]])
def test_no_other_answer_stops_it(learned, facts, answer):
    assert unlearn(learned, *facts, on_check=lambda c: answer, **RUN).stopped == "step budget used up"


def test_raw_text_has_checks_without_f(learned):
    seen = []
    unlearn(learned, Corpus(("ann was born in rome . " * 3,)), method="ga", steps=2, progress=False,
            on_check=seen.append)  # fmt: skip
    assert [(c.step, c.forgotten) for c in seen] == [(0, None), (2, None)]


def test_a_resumed_run_calls_it_for_the_steps_still_made(learned, facts, tmp_path):
    whole = unlearn(learned, *facts, on_check=lambda c: None, **RUN)

    def breaks(check):
        if check.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(learned, *facts, on_check=breaks, checkpoint=tmp_path, checkpoint_every=4, **RUN)
    seen = []
    resumed = unlearn(learned, *facts, on_check=seen.append, checkpoint=tmp_path, checkpoint_every=4, **RUN)
    assert [c.step for c in seen] == [6, 7]
    assert resumed.history == whole.history
    assert model_hash(resumed.model) == model_hash(whole.model)


def test_methods_without_steps_refuse_it(learned, facts):
    for name in [n for n, m in METHODS.items() if m.carry_out is not train_copy]:
        for given, said in (({"on_check": print}, "on_check= acts"), ({"keep": "best"}, 'keep="best" acts')):
            with pytest.raises(InputError, match=f"{said} at steps of training, and method '{name}'"):
                unlearn(learned, *facts, method=name, progress=False, **given)


class Wandb:
    """Stand in for a run of wandb or trackio, whose `log` takes a dict and the step by keyword."""

    def __init__(self):
        self.calls = []

    def log(self, data, step=None):
        self.calls.append((step, data))


class Writer:
    """Stand in for TensorBoard's writer."""

    def __init__(self):
        self.calls = []

    def add_scalar(self, tag, scalar_value, global_step=None):
        self.calls.append((tag, scalar_value, global_step))


def test_both_kinds_of_run_get_the_numbers_of_the_history(learned, facts):
    run, writer = Wandb(), Writer()
    for place in (run, writer):
        u = unlearn(learned, *facts, on_check=log_to(place), retain_score=lambda m: 0.5, **RUN)
    rows = [row for row in u.history.rows if row["step"] in (0, 3, 6, 7)]
    assert [step for step, _ in run.calls] == [0, 3, 6, 7]
    for row, (_, logged) in zip(rows[1:], run.calls[1:], strict=True):
        assert logged["F"] == pytest.approx(1 - row["forget_score"])
        assert {k: logged[k] for k in ("loss", "forget", "grad_norm", "lr", "retain_score")} == {
            k: row[k] for k in ("loss", "forget", "grad_norm", "lr", "retain_score")
        }
    assert writer.calls == [(k, v, step) for step, logged in run.calls for k, v in logged.items()]


def test_what_cannot_log_is_refused():
    with pytest.raises(InputError, match=r"a dict has neither log\(\) nor add_scalar\(\); give wandb"):
        log_to({})
