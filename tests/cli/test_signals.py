"""A signal ends every command at once, with one line that says what is kept and how to go on."""

import json
import os
import signal
import time

import pytest

import unpact_lens as ul
from tests.cli.conftest import builtin, in_child
from unpact_lens.models.checkpoint import model_hash

VERBS = {
    "attribute": ("attribute", "a b", " c"),
    "diff": ("diff", "builtin", "builtin", "a b", " c"),
    "explore": ("explore", "builtin", "builtin"),
    "unlearn": ("unlearn", "--method", "ga", "--out", "x"),
    "unlearn-sequence": ("unlearn-sequence", "--method", "ga", "--out", "x"),
    "tune": ("tune", "--method", "ga"),
    "recover": ("recover", "builtin"),
    "evaluate": ("evaluate", "builtin"),
    "known-facts": ("known-facts",),
    "export": ("export", "builtin", "hf"),
    "study": ("study", "demo", "--out", "st"),
    "demo": ("demo", "--out", "st"),
}
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n.name)
@pytest.mark.parametrize("verb", VERBS)
def test_every_command_says_what_is_kept(unpact, monkeypatch, tmp_path, verb, number):
    monkeypatch.chdir(tmp_path)

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr("unpact_lens.load_model", interrupted)
    monkeypatch.setattr("unpact_lens.run_study", interrupted)
    before = [signal.getsignal(n) for n in NUMBERS]
    status, out, err = unpact(*VERBS[verb])
    assert status == 128 + number
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("interrupted; " if number == signal.SIGINT else "terminated; ")
    assert "kept" in err or "incomplete" in err
    assert [signal.getsignal(n) for n in NUMBERS] == before


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_run_goes_on_to_the_same_weights(unpact, one_load, own, tmp_path, number):
    builtin("builtin")
    steps = ("--set", "steps=60", "--set", "lr=1e-4", "--no-score", "--checkpoint-every", "5")
    call = ("unlearn", "--method", "ga", "--benchmark", "pairs", "--data", own, *steps)
    assert unpact(*call, "--out", str(tmp_path / "whole"))[0] == 0

    resumed = (*call, "--out", str(tmp_path / "x"), "--checkpoint", str(tmp_path / "x" / "state"))
    file = os.open(tmp_path / "stderr", os.O_RDWR | os.O_CREAT)
    pid = in_child(resumed, file, file)
    wait_for((tmp_path / "x" / "state" / "state.json").is_file)
    os.kill(pid, number)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = (tmp_path / "stderr").read_text()
    assert status == 128 + number, said
    step = json.loads((tmp_path / "x" / "state" / "state.json").read_text())["step"]
    assert f"the state after step {step} is kept in {tmp_path / 'x' / 'state'}; go on with: unpact unlearn" in said
    assert not (tmp_path / "x" / "result.json").exists()

    status, _, err = unpact(*resumed)
    assert status == 0, err
    assert model_hash(ul.load(tmp_path / "x").model) == model_hash(ul.load(tmp_path / "whole").model)


def test_without_a_checkpoint_the_option_is_named(unpact, monkeypatch, tmp_path):
    monkeypatch.setattr("unpact_lens.load_model", lambda *a, **k: os.kill(os.getpid(), signal.SIGINT))
    _, _, err = unpact("unlearn", "--method", "ga", "--out", str(tmp_path / "x"))
    assert err == "interrupted; nothing was kept; with --checkpoint DIR the same command can go on where it stopped\n"


def test_an_ignored_signal_stays_ignored(unpact, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        from unpact_lens.cli.interrupts import signals

        with signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
