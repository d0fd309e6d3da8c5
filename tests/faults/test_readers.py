"""A reader beside a writer sees the old content or the new one, and never an error or a mixture."""

import os
import signal
import time

import pytest

from tests.faults.artefacts import KINDS, told
from unpact_lens.models.checkpoint import load_checkpoint
from unpact_lens.results import load

READERS = {
    "result": ("result", lambda f: told(load(f))),
    "result, unverified": ("result", lambda f: told(load(f, verify=False))),
    "result-of-models": ("result-of-models", lambda f: told(load(f))),
    "hooked-model": ("hooked-model", lambda f: told(load_checkpoint(f))),
    "hooked-model, unverified": ("hooked-model", lambda f: told(load_checkpoint(f, verify=False))),
}


def reads_beside_a_writer(name, folder, seconds):
    """Return the number of reads in that time, each of which must give one of two things."""
    kind, read = READERS[name]
    write = KINDS[kind].write
    allowed = []
    for which in (1, 0):
        write(folder / "thing", which)
        allowed.append(read(folder / "thing"))
    child = os.fork()
    if not child:
        while True:
            for which in (1, 0):
                write(folder / "thing", which)
    try:
        seen, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            found = read(folder / "thing")
            assert found in allowed
            seen.append(allowed.index(found))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(seen)


@pytest.mark.parametrize("name", ["result", "hooked-model, unverified"])
def test_a_reader_sees_the_old_or_the_new(name, tmp_path):
    assert reads_beside_a_writer(name, tmp_path, 2) > 1  # a loaded machine reads few


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_sees_the_old_or_the_new_for_long(name, tmp_path, record_property):
    record_property("reads", reads_beside_a_writer(name, tmp_path, 20))
