"""A resumed run ends with the weights of an uninterrupted one, and so does a run in less memory."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained, world
from unpact_lens.comparison.focus import focus
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.load import load_model
from unpact_lens.unlearning import StopRule, unlearn

RUN = {"method": "npo_gdr", "lr": 1e-3, "steps": 30, "batch_size": 4, "schedule": "cosine", "progress": False}

CHILD = """
import sys, time
from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained, world
from unpact_lens.unlearning import trainer, unlearn
whole = trainer.StepBatch.add
def slowly(*args):
    time.sleep(0.02)
    return whole(*args)
trainer.StepBatch.add = slowly
print("ready", flush=True)
unlearn(untrained(), *world(), checkpoint=sys.argv[1], checkpoint_every=3, method="npo_gdr", lr=1e-3, steps=30,
        batch_size=4, schedule="cosine", progress=False)
"""


def killed_after(folder, steps):
    """Run a child on its own and kill it without warning once it has left a state."""
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", CHILD, str(folder)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(folder.glob(f"state-{steps}.safetensors")):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(tmp_path):
    whole = unlearn(untrained(), *world(), **RUN)
    for steps in (3, 12):
        folder = tmp_path / str(steps)
        folder.mkdir()
        killed_after(folder, steps)
        resumed = unlearn(untrained(), *world(), checkpoint=folder, checkpoint_every=3, **RUN)
        assert model_hash(resumed.model) == model_hash(whole.model)
        assert resumed.history == whole.history


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["npo_gdr", "lora_ga_gdr", "sparsity_aware", "rmu"])
def test_run_interrupted_between_two_states_resumes_to_the_same_result(tmp_path, method, monkeypatch):
    from unpact_lens.unlearning import trainer

    given = {**RUN, "method": method, "steps": 7, "stop_at": StopRule(forget=0.0), "check_every": 2,
             "forget_score": lambda m: float(m.blocks[0].mlp.W_in.abs().mean())}  # fmt: skip
    whole = unlearn(untrained(), *world(), **given)
    calls, real = [], trainer.StepBatch.add

    def breaks(*args):
        calls.append(args)
        if len(calls) == 9:  # in the fifth step, after the state of the fourth
            raise Killed
        return real(*args)

    monkeypatch.setattr(trainer.StepBatch, "add", breaks)
    with pytest.raises(Killed):
        unlearn(untrained(), *world(), checkpoint=tmp_path, checkpoint_every=2, **given)
    monkeypatch.setattr(trainer.StepBatch, "add", real)
    assert [f.name for f in tmp_path.glob("state-*.safetensors")] == ["state-4.safetensors"]
    resumed = unlearn(untrained(), *world(), checkpoint=tmp_path, checkpoint_every=2, **given)
    assert model_hash(resumed.model) == model_hash(whole.model)
    assert resumed.history == whole.history
    again = unlearn(untrained(), *world(), checkpoint=tmp_path, checkpoint_every=2, **given)
    assert model_hash(again.model) == model_hash(whole.model)  # a finished run is not run again


def test_state_of_another_run_is_refused(tmp_path):
    model = untrained()
    unlearn(model, *world(), checkpoint=tmp_path, **{**RUN, "steps": 2})
    with pytest.raises(InputError, match="holds a run with another model, data or settings"):
        unlearn(model, *world(), checkpoint=tmp_path, **{**RUN, "steps": 2, "lr": 1e-4})
    with pytest.raises(InputError, match="another model"):
        unlearn(untrained(seed=5), *world(), checkpoint=tmp_path, **{**RUN, "steps": 2})
    with pytest.raises(InputError, match="checkpoint_every=0"):
        unlearn(model, *world(), checkpoint=tmp_path, checkpoint_every=0, **RUN)


def test_trajectory_is_the_same_after_an_interruption(tmp_path, monkeypatch):
    from unpact_lens.unlearning import trainer

    model = untrained()
    forget, retain = world()
    tracked = [forget[0], retain[0]]
    given = {**RUN, "steps": 6, "track": tracked, "track_every": 2}
    whole = unlearn(model, forget, retain, **given)
    looks = whole.history.trajectory
    assert sorted(looks) == ["0", "2", "4", "6"]
    assert [a.prompt for a in looks["0"]] == [q.prompt for q in tracked]
    assert not torch.equal(looks["0"][0].scores, looks["6"][0].scores)
    calls, real = [], trainer.StepBatch.add

    def breaks(*args):
        calls.append(args)
        if len(calls) == 9:
            raise Killed
        return real(*args)

    monkeypatch.setattr(trainer.StepBatch, "add", breaks)
    with pytest.raises(Killed):
        unlearn(model, forget, retain, checkpoint=tmp_path, checkpoint_every=3, **given)
    monkeypatch.setattr(trainer.StepBatch, "add", real)
    resumed = unlearn(model, forget, retain, checkpoint=tmp_path, checkpoint_every=3, **given)
    assert resumed.history == whole.history


def test_trajectory_of_focus_starts_at_no_change_and_moves(learned, facts):
    forget, retain = facts
    tracked = [*forget[:2], retain[0]]
    u = unlearn(learned, forget, retain, method="ga", lr=3e-3, steps=6, track=tracked, track_every=3, progress=False)
    frame = u.history.focus()
    assert sorted(set(frame.step)) == [0, 3, 6]
    mean = frame.set_index(["measure", "step"])["mean"]
    assert mean["spearman", 0] == mean["overlap", 0] == pytest.approx(1)
    assert mean["entropy_shift", 0] == 0
    looks = u.history.trajectory
    for step in (3, 6):
        expected = focus(looks["0"], looks[str(step)]).means
        assert mean["spearman", step] == pytest.approx(float(expected["spearman"][0]))
        assert mean["mass_shift", step] == pytest.approx(float(expected["mass_shift"][0]))
    assert mean["spearman", 6] < 1
    bare = unlearn(learned, forget, method="ga", steps=1, progress=False)
    with pytest.raises(InputError, match=r"this run tracked no facts; give unlearn\(\) track="):
        bare.history.focus()


def test_half_precision_model_keeps_its_type_and_resumes(tmp_path):
    model = untrained("llama", dtype=torch.float32).to(torch.bfloat16)
    given = {**RUN, "steps": 4, "lr": 1e-2}
    whole = unlearn(model, *world(), **given)
    assert {p.dtype for p in whole.model.parameters()} == {torch.bfloat16}
    assert whole.history.rows[-1]["forget"] < whole.history.rows[0]["forget"]
    kept = unlearn(model, *world(), checkpoint=tmp_path, checkpoint_every=2, **given)
    assert model_hash(kept.model) == model_hash(whole.model)
    again = unlearn(model, *world(), checkpoint=tmp_path, checkpoint_every=2, **given)
    assert model_hash(again.model) == model_hash(whole.model)


def test_recomputing_blocks_changes_nothing_on_a_bridge():
    model = load_model(hf_model("llama").double(), wrap="bridge", tokenizer=tokenizer(), dtype=torch.float64)
    items = [QA("the capital of Japan is", " Tokyo"), QA("gold has the symbol", " Au")]
    given = {**RUN, "steps": 3, "batch_size": 2}
    plain, frugal = (unlearn(model, items[:1], items[1:], recompute=r, **given) for r in (False, True))
    assert [b.__dict__.get("forward") for b in frugal.model.blocks] == [None] * len(frugal.model.blocks)
    for p, q in zip(plain.model.parameters(), frugal.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=0)


def test_recomputing_blocks_changes_nothing():
    model = untrained("llama")
    for method in ("npo_gdr", "rmu"):
        given = {**RUN, "method": method, "steps": 3}
        plain, frugal = (unlearn(model, *world(), recompute=r, **given) for r in (False, True))
        for p, q in zip(plain.model.parameters(), frugal.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-12, rtol=0)


def test_bf16_training_keeps_the_type_of_weights_and_stays_close_to_fp32():
    model = untrained("gpt2", dtype=torch.float32)
    given = {**RUN, "method": "ga", "steps": 8, "lr": 3e-3, "schedule": "constant"}
    full, half = (unlearn(model, *world(), precision=p, **given) for p in ("full", "bf16"))
    assert half.model.embed.W_E.dtype == torch.float32
    assert full.history.rows[-1]["forget"] < 2 * full.history.rows[0]["forget"] < 0  # far enough to see stale weights
    for a, b in zip(full.history.rows, half.history.rows, strict=True):
        assert a["forget"] == pytest.approx(b["forget"], rel=0.03, abs=0.03)
        assert a != b
    with pytest.raises(InputError, match="precision='fp8'; use 'full' or 'bf16'"):
        unlearn(model, *world(), precision="fp8", **RUN)


def test_tracking_needs_a_positive_interval():
    with pytest.raises(InputError, match="track_every=0"):
        unlearn(untrained(), *world(), track=[QA("where was ann born", " oslo")], track_every=0, **RUN)
