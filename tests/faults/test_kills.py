"""A writer that is killed at any moment leaves the old content or the new one; the next writer sweeps its leftovers.

`test_every_point_*` kill at every change of the file system, and are run by `make test-all`.
"""

import shutil

import pytest

from tests.faults.artefacts import KINDS, read_builtin, write_builtin
from tests.faults.crashes import points, run
from unpact_lens.writing import SCRATCH

FEW = ("result-of-models", "hooked-model", "training-state")


def kill_and_check(kind, folder, most, first=0):
    """Write thing `first`, kill a writer of thing 1 over it at up to `most` points, and check what is left."""
    place = folder / "thing"

    def setup():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        kind.write(place, first)

    def work():
        kind.write(place, 1)

    setup()
    old = kind.read(place)
    work()
    new = kind.read(place)
    names = sorted(p.name for p in place.iterdir())
    killed = 0
    for at in points(work, setup, most):
        setup()
        (folder / "mine.txt").write_text("mine")
        assert run(work, at) is None, at
        killed += 1
        assert kind.read(place) in (old, new), at
        work()
        assert kind.read(place) == new, at
        left = [p for p in folder.rglob("*") if SCRATCH in p.name]
        assert left == [], (at, left)
        assert sorted(p.name for p in place.iterdir()) == names, at
        assert (folder / "mine.txt").read_text() == "mine"
    return killed


@pytest.mark.parametrize("name", FEW)
def test_a_few_kills_lose_nothing(name, tmp_path):
    assert kill_and_check(KINDS[name], tmp_path / "x", 4) == 4


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1], ids=["over-another", "over-the-same"])
@pytest.mark.parametrize("name", KINDS)
def test_every_point_of_every_kind_loses_nothing(name, first, tmp_path, record_property):
    record_property("kills", kill_and_check(KINDS[name], tmp_path / "x", 60, first))


@pytest.mark.slow
def test_a_killed_rebuild_leaves_the_old_models_or_the_new_ones(tmp_path, record_property):
    class Builtin:
        write, read = staticmethod(write_builtin_over), staticmethod(read_builtin)

    record_property("kills", kill_and_check(Builtin, tmp_path / "x", 12))


def write_builtin_over(folder, which):
    """Copy the shipped models, or rebuild over what is there."""
    if not which:
        write_builtin(folder, 0)
        return
    from tests.models.test_builtin import QUICK
    from unpact_lens.models.builtin import rebuild

    rebuild(None, QUICK, folder)
