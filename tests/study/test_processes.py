"""A study in several processes equals a serial one, and a process that is killed in mid-cell is replaced."""

import contextlib
import json
import os
import signal
import threading
import time

import psutil
import pytest

from tests.study.small_study import small_config
from tests.study.test_run_study import without_times
from unpact_lens.errors import InputError
from unpact_lens.study import load_config, run_study
from unpact_lens.study.claims import claim, held, sweep

LONG = {"lr": 1e-5, "batch_size": 8, "check_every": 2, "steps": 60}


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    methods = [{"name": name, "settings": LONG} for name in ("ga", "npo")]
    config = load_config(small_config(folder, methods=methods))
    return config, run_study(config, folder / "out", progress=False)


def workers(folder):
    """The worker processes of the study in a directory."""
    return [p for p in psutil.Process().children() if p.status() != "zombie" and str(folder) in p.cmdline()]


def kill_in_mid_cell(folder, times, killed):
    """Kill the process that trains, each time that its cell has written another checkpoint."""
    seen = set()
    while len(killed) < times:
        for state in folder.glob("checkpoints/*/state.json"):
            note = state.read_text()
            owner = folder / ".claims" / f"cells+{state.parent.name.rsplit('-', 1)[0]}.claim" / "owner.json"
            if note not in seen and owner.is_file():
                pid = json.loads(owner.read_text())["pid"]
                if any(p.pid == pid for p in workers(folder)):
                    seen.add(note)
                    os.kill(pid, signal.SIGKILL)
                    killed.append(json.loads(note)["step"])
                    break
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_processes_change_no_bit_and_no_cell_starts_anew(serial, tmp_path):
    config, expected = serial
    out, killed = tmp_path / "out", []
    killer = threading.Thread(target=kill_in_mid_cell, args=(out, 2, killed), daemon=True)
    killer.start()
    study = run_study(config, out, jobs=2, progress=False)
    killer.join(5)
    assert len(killed) == 2
    assert all(step > 0 for step in killed)
    assert without_times(study) == without_times(expected)
    assert not study.failed
    assert not workers(out)
    assert not list(out.glob("checkpoints/*"))


@pytest.mark.slow
def test_a_cell_whose_processes_always_die_is_recorded_and_the_other_goes_on(serial, tmp_path, monkeypatch):
    config, _ = serial
    out = tmp_path / "out"
    over = threading.Event()

    def kill():
        while not over.is_set():
            owner = out / ".claims" / "cells+ga-seed0.claim" / "owner.json"
            if owner.is_file() and (text := owner.read_text()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(json.loads(text)["pid"], signal.SIGKILL)
            time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    study = run_study(config, out, jobs=2, progress=False)
    over.set()
    assert [c.method for c in study.cells] == ["npo"]
    (failed,) = study.failed
    assert failed["error"] == "its process died (signal 9, out of memory?) 3 times"


@pytest.mark.hooked
def test_a_shared_part_that_cannot_be_made_is_an_input_error_in_processes_too(tmp_path):
    config = load_config(small_config(tmp_path, control="builtin-retran"))
    with pytest.raises(InputError, match="did you mean 'builtin-retrain'"):
        run_study(config, tmp_path / "out", jobs=2, progress=False)


def test_one_process_at_a_time_holds_a_claim(tmp_path):
    inside, most, done = [], [], []

    def work(number):
        with claim(tmp_path, "cells/a"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)
        done.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(6))
    assert set(most) == {1}
    assert not list(tmp_path.iterdir())


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path):
    for host, pid in (("elsewhere", os.getpid()), (os.uname().nodename, 2**22 - 1)):
        place = tmp_path / "plan.claim"
        place.mkdir()
        (place / "owner.json").write_text(json.dumps({"host": host, "pid": pid, "started": 1.0}))
        if host == "elsewhere":
            assert held(tmp_path, "plan")  # Its owner may be alive: it touched the claim a moment ago.
            os.utime(place, (0, 0))
        assert not held(tmp_path, "plan")
        with claim(tmp_path, "plan"):
            assert held(tmp_path, "plan")
        assert not place.exists()


def test_sweeping_removes_dead_claims_only(tmp_path):
    (tmp_path / "old.claim").mkdir()
    os.utime(tmp_path / "old.claim", (0, 0))
    with claim(tmp_path, "plan"):
        assert sweep(tmp_path) == 1
        assert held(tmp_path, "plan")
    assert not list(tmp_path.iterdir())
