"""Several requests: each run starts from the last result, and F and D of all are measured."""

import sys

import pytest
import torch

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.generate import generate_answers
from unpact_lens.results import load
from unpact_lens.unlearning import unlearn, unlearn_sequence
from unpact_lens.unlearning.sequential import split_requests

QUICK = {"lr": 1e-3, "steps": 60, "check_every": 2, "max_new_tokens": 8, "progress": False}


def share_wrong(model, items):
    answers = generate_answers(model, [q.prompt for q in items], max_new_tokens=8)
    return sum(q.fact not in a.split() for a, q in zip(answers, items, strict=True)) / len(items)


@pytest.mark.hooked
def test_f_and_d_of_every_request_are_measured_after_each_run(learned, facts):
    forget, retain = facts
    requests = [forget[:2], forget[2:4], forget[4:]]
    assert all(share_wrong(learned, items) == 0 for items in (*requests, retain))
    trained, unseen = retain[: len(retain) // 2], retain[len(retain) // 2 :]
    s = unlearn_sequence(learned, requests, trained, unseen=unseen, method="ga", stop_at=0.0, **QUICK)
    assert s.forgotten.shape == (3, 3)
    for i, run in enumerate(s.runs):
        assert s.forgotten[i].tolist() == pytest.approx([share_wrong(run.model, items) for items in requests])
        assert s.destroyed[i] == pytest.approx(share_wrong(run.model, unseen))
        assert s.destroyed_trained[i] == pytest.approx(share_wrong(run.model, trained))
    assert s.forgotten[0, 0] == 1
    assert s.forgotten[0, 2] < 1  # otherwise the columns could not be distinguished
    frame = s.to_frame()
    assert frame.columns.tolist() == ["F_0", "F_1", "F_2", "D", "D_trained", "stopped"]
    assert frame.F_0.tolist() == pytest.approx(s.forgotten[:, 0].tolist())


def test_each_run_starts_from_the_model_before_it(learned, facts):
    forget, retain = facts
    settings = {"method": "ga_gdr", "lr": 1e-3, "steps": 3, "seed": 5, "progress": False}
    before = model_hash(learned)
    s = unlearn_sequence(learned, [forget[:3], forget[3:]], retain, **settings)
    assert s.runs[0].hash_before == before == model_hash(learned)
    assert s.runs[1].hash_before == model_hash(s.runs[0].model)
    by_hand = unlearn(unlearn(learned, forget[:3], retain, **settings).model, forget[3:], retain, **settings)
    assert model_hash(s.model) == model_hash(by_hand.model)


def test_o3_adds_one_adapter_for_each_request(learned, facts, tmp_path):
    forget, retain = facts
    s = unlearn_sequence(learned, [forget[:2], forget[2:4]], retain, method="o3", rank=3, **{**QUICK, "steps": 10})
    assert [len(u.model.members) for u in s.runs] == [2, 3]
    assert s.destroyed.isnan().all()
    assert {b.shape[1] for b in s.model.bases.values()} == {6}
    again = load(s.save(tmp_path / "sequence"))
    assert again == s
    assert torch.equal(again.model(torch.arange(3, 9)[None]), s.model(torch.arange(3, 9)[None]))


def test_bad_input_is_refused_with_its_value(learned, facts):
    forget, retain = facts
    with pytest.raises(InputError, match="there is no request; give at least one forget set"):
        unlearn_sequence(learned, [], retain)
    with pytest.raises(InputError, match="none of the 1 facts is answered right before unlearning"):
        unlearn_sequence(learned, [forget, [QA("where was ann born", " xanadu")]], retain, **QUICK)
    with pytest.raises(InputError, match="'whp_inference' leaves a combined model"):
        unlearn_sequence(learned, [forget[:3], forget[3:]], retain, method="whp_inference", **QUICK)
    with pytest.raises(InputError, match="unknown setting 'stepz'; did you mean 'steps'"):
        unlearn_sequence(learned, [forget], retain, stepz=3)


def test_forget_set_is_cut_by_subject_in_order(facts):
    forget, _ = facts
    assert split_requests(forget, 1) == [forget]
    assert split_requests(forget, 3) == [forget[:2], forget[2:4], forget[4:]]
    assert split_requests(forget, 2) == [forget[:4], forget[4:]]
    for n in (0, 4):
        with pytest.raises(InputError, match=f"requests={n}; the forget set has 3 subjects, give 1 to 3"):
            split_requests(forget, n)


def test_a_killed_sequence_goes_on_where_it_stopped(learned, facts, tmp_path, monkeypatch):
    forget, retain = facts
    requests = [forget[:2], forget[2:4]]
    settings = {"method": "ga_gdr", "lr": 1e-3, "steps": 4, "seed": 5, "max_new_tokens": 8, "progress": False}
    whole = unlearn_sequence(learned, requests, retain, **settings)
    calls = []

    def killed(*args, **kwargs):
        calls.append(kwargs["checkpoint"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return unlearn(*args, **kwargs)

    settings |= {"checkpoint": tmp_path, "checkpoint_every": 2}
    monkeypatch.setattr(sys.modules["unpact_lens.unlearning.sequential"], "unlearn", killed)
    with pytest.raises(KeyboardInterrupt):
        unlearn_sequence(learned, requests, retain, **settings)
    monkeypatch.undo()
    again = unlearn_sequence(learned, requests, retain, **settings)
    assert calls == ["request-0", "request-1"]
    assert [model_hash(run.model) for run in again.runs] == [model_hash(run.model) for run in whole.runs]
    assert (tmp_path / "request-0" / "state.json").is_file()
    assert again.forgotten.equal(whole.forgotten)
