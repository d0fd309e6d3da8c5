"""Every file of every kind, damaged in every way: the error names what is damaged, or the same numbers are read.

Never is there another error, and never are there other numbers. A store of references and a search path of models that
can be computed again do so.
"""

import contextlib
import json
import shutil

import pytest

from tests.faults.artefacts import KINDS, bridged, hooked, read_builtin, result, told, write_builtin
from tests.faults.damage import DAMAGES, formats, swapped, wrong_types
from unpact_lens.errors import InputError
from unpact_lens.models.builtin import ASSETS
from unpact_lens.models.checkpoint import load_checkpoint, save_model
from unpact_lens.results import load, save, sealed, write_json


def read_or_refuse(read, place, expected, what):
    """Read a damaged thing; return whether it was refused."""
    try:
        found = read(place)
    except InputError:
        return True
    assert found in expected, what
    return False


def files_of(place):
    return [p.relative_to(place) for p in sorted(place.rglob("*")) if p.is_file()]


def damage_everything(kind, folder, damages=DAMAGES):
    """Damage every file of a thing in every way, and return the number of damages and of refusals."""
    good, other, place = folder / "good", folder / "other", folder / "thing"
    kind.write(good, 0)
    kind.write(other, 1)
    expected = [kind.read(good), kind.anew]
    done = refused = 0
    for name in files_of(good):
        theirs = next((other / n for n in files_of(other) if n.name == name.name), None)
        theirs = theirs or next(other / n for n in files_of(other) if n.suffix == name.suffix)
        for damage in damages:
            if damage is swapped and len(files_of(good)) == 1:
                continue  # Another whole thing is no damage.
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(good, place)
            damage(place / name, theirs)
            refused += read_or_refuse(kind.read, place, expected, f"{name}, {damage.__name__}")
            done += 1
        if name.suffix == ".json":
            for what, record in (*formats(good / name), *some(wrong_types(json.loads((good / name).read_text())))):
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(good, place)
                (place / name).write_text(json.dumps(record))
                refused += read_or_refuse(kind.read, place, expected, f"{name}, {what}")
                done += 1
    return done, refused


def some(found, most=40):
    """Return up to `most` of them, spread evenly."""
    found = list(found)
    return found[:: -(-len(found) // most) or 1]


@pytest.mark.parametrize("name", ["result", "training-state", "references", "trials"])
def test_damage_is_named_or_changes_nothing(name, tmp_path):
    done, refused = damage_everything(KINDS[name], tmp_path)
    assert done > 10
    assert refused > 10 or name == "references"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_damage_of_every_kind_is_named_or_changes_nothing(name, tmp_path, record_property):
    done, refused = damage_everything(KINDS[name], tmp_path)
    record_property("damages", done)
    record_property("refused", refused)


@pytest.mark.slow
def test_damage_of_the_shipped_models_is_named(tmp_path, record_property):
    class Builtin:
        write, read = staticmethod(lambda folder, which: write_builtin(folder, 0)), staticmethod(read_builtin)
        anew = None

    done, refused = damage_everything(Builtin, tmp_path)
    record_property("damages", done)
    record_property("refused", refused)


UNCHECKED = (
    "versions",
    "files",
    "checksum",
    "without",
    "models",
    "result.fields.model",
    "result.fields.without model",
    "result.fields.nested",
    "result.fields.items: []",
)
"""Entries without a type of their own, or without a meaning where nothing is verified."""


@pytest.mark.parametrize("reseal", [False, True], ids=["as-it-is", "with-a-new-checksum"])
def test_a_wrong_type_at_any_key_is_an_input_error_without_verification_too(tmp_path, reseal):
    place = save(result(0), tmp_path / "good")
    file = place / "result.json"
    record = json.loads(file.read_text())
    for what, changed in wrong_types(record):
        write_json(file, sealed(changed) if reseal else changed)
        try:
            load(place, verify=reseal)
        except InputError:
            continue
        assert what.startswith(UNCHECKED), what


@pytest.mark.parametrize("model", [hooked, bridged], ids=["hooked", "bridge"])
def test_a_wrong_type_in_the_configuration_of_a_model_is_an_input_error(tmp_path, model):
    place = save_model(model(0), tmp_path / "good")
    file = place / "config.json"
    record = json.loads(file.read_text())
    for _, changed in some(wrong_types(record), 30):
        write_json(file, changed)
        with contextlib.suppress(InputError):
            load_checkpoint(place, verify=False)


@pytest.mark.parametrize("name", ["result-of-models", "hooked-model", "export", "training-state", "trials"])
def test_writing_again_repairs_what_is_damaged(name, tmp_path):
    kind, place = KINDS[name], tmp_path / "thing"
    kind.write(place, 0)
    expected = kind.read(place)
    for number in range(len(files_of(place))):
        for damage in DAMAGES[:4]:
            file = files_of(place)[number]
            if file.name == "config.json" and damage.__name__ in ("empty", "half"):
                continue  # Nothing tells then that the directory is ours.
            damage(place / file, place / file)
            kind.write(place, 0)
            assert kind.read(place) == expected, (file, damage)
            left = [n for n in files_of(place) if n.parts[0].startswith((".", "tensors-", "model-", "state-"))]
            assert len({n.parts[0] for n in left}) <= 2, left


def test_the_shipped_recipe_covers_every_file():
    recipe = json.loads((ASSETS / "recipe.json").read_text())
    folder = ASSETS / recipe["folder"]
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(recipe["sha256"])


def test_verification_can_be_skipped(tmp_path):
    place = save(result(0), tmp_path / "r")
    file = place / "result.json"
    record = json.loads(file.read_text())
    record["result"]["fields"]["number"] = 0.5
    write_json(file, record)
    with pytest.raises(InputError, match=r"result.json is damaged: its content does not match its checksum"):
        load(place)
    assert load(place, verify=False).number == 0.5
    assert told(load(place, verify=False))[0] == told(result(0))[0]
