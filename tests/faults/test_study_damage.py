"""Every file of a finished study, damaged in every way, gives an `InputError` or the same numbers again."""

import dataclasses
import functools
import importlib
import json
import random
import shutil

import pytest
import torch

import unpact_lens as ul
from tests.faults.damage import DAMAGES, deleted, flip, formats, wrong_types
from tests.study.small_study import METHODS, small_config
from unpact_lens.errors import InputError
from unpact_lens.study import load_config, run_study
from unpact_lens.study.folder import FINGERPRINT

workspace = importlib.import_module("unpact_lens.study.workspace")

WRONG = 4
"""Number of wrong types that are tried in each JSON file."""

SHARDS = 14
"""Number of tests that share the damages, so that pytest-xdist can run them side by side."""


def without_times(study):
    untimed = tuple(dataclasses.replace(c, seconds=0.0) for c in study.cells)
    return dataclasses.replace(study, cells=untimed, seconds=0.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study, and a function that runs it again in a directory; each model is loaded once."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    config = load_config(small_config(folder, methods=METHODS[:1], save_models=True))
    patch = pytest.MonkeyPatch()
    loaded = functools.cache(lambda spec, **_: ul.load_model(spec))
    patch.setattr(workspace, "load_model", lambda spec, **_: loaded(spec))
    first = run_study(config, folder / "out", progress=False)
    yield folder / "out", without_times(first), lambda place: run_study(config, place)
    patch.undo()


def files_of(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name != "facts.json")


def damages_of(file, other):
    """Yield the name of each damage of a file, and a function that does it to a copy."""
    for damage in DAMAGES:
        yield damage.__name__, functools.partial(damage, other=other)
    for share in (0.3, 0.9):
        yield f"bit at {share}", functools.partial(flip, share=share)
    if file.suffix == ".json" or file.name == FINGERPRINT:
        record = json.loads(file.read_text())
        changed = [*formats(file), *wrong_types(record)]
        for what, found in (
            *list(formats(file)),
            *random.Random(str(file.name)).sample(changed, min(WRONG, len(changed))),
        ):
            yield what, functools.partial(lambda path, text: path.write_text(text), text=json.dumps(found))


def absent(place, good):
    """Files of the undamaged study that are not there. Tensors are named by their content."""
    return [f for f in files_of(good) if f.suffix != ".safetensors" and not (place / f).is_file()]


def check(study, name, what, damage, tmp_path, capsys):
    """Damage a copy, read it, and run the study again; return how both ended."""
    good, first, run = study
    place = tmp_path / "out"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    damage(place / name)
    ends = []
    for again in (ul.load, run):
        capsys.readouterr()
        try:
            found = again(place)
        except InputError:
            ends.append("refused")
            continue
        assert without_times(found) == first, (name, what, again)
        said = capsys.readouterr().err
        ends.append("anew" if "again" in said or "unlearning" in said else "same")
    if ends[1] != "refused":
        assert without_times(ul.load(place)) == first, (name, what)
        if absent(place, good):  # Nothing that is finished needs the file. What is not finished makes it again.
            shutil.rmtree(place / "cells")
            assert without_times(run(place)) == first, (name, what)
            assert not absent(place, good), (name, what)
    return tuple(ends)


def others(good, name):
    """Another file of the same kind, or any other."""
    found = [f for f in files_of(good) if f != name]
    return good / next(
        (f for f in found if f.name == name.name), next((f for f in found if f.suffix == name.suffix), found[0])
    )


def test_a_damaged_part_is_computed_again_and_a_damaged_study_is_named(study, tmp_path, capsys):
    good, _, _ = study
    tensors = next(f for f in files_of(good) if f.parts[0] == "before" and f.suffix == ".safetensors")
    assert check(study, tensors, "a bit", functools.partial(flip, share=0.9), tmp_path, capsys) == ("same", "anew")
    result = next(f for f in files_of(good) if f.name == "result.json" and len(f.parts) == 1)
    assert check(study, result, "deleted", functools.partial(deleted, other=None), tmp_path, capsys)[0] == "refused"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_damage_of_any_file_of_a_study_gives_other_numbers(shard, study, tmp_path, capsys, record_property):
    good, _, _ = study
    ends = {}
    damages = [(n, what, damage) for n in files_of(good) for what, damage in damages_of(good / n, others(good, n))]
    for name, what, damage in damages[shard::SHARDS]:
        end = check(study, name, what, damage, tmp_path, capsys)
        ends[end] = ends.get(end, 0) + 1
    for end, count in ends.items():
        record_property("read: {}, run: {}".format(*end), count)
    assert sum(ends.values()) > 10
