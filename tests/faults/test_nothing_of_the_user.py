"""No writer removes, overwrites or follows what it did not write."""

import os
from pathlib import Path

import pytest

from tests.faults.artefacts import KINDS, hooked, result, snapshot, told
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import fresh_directory, save_model
from unpact_lens.models.export import export_hf
from unpact_lens.results import load, save, write_text
from unpact_lens.writing import SCRATCH

MINE = ["model-mine/notes.txt", "tensors-user.safetensors", "model-0123456789abcdef/config.json", "data.csv", ".hidden"]


def put(folder, names=MINE):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")


def test_a_directory_of_the_user_is_refused_by_save(tmp_path):
    put(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"is not empty and holds no result \(e.g. .hidden\); give a new or empty"):
        save(result(0), tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("text", ['{"a": 1}', "not JSON", "[1]", '{"result": 3}'])
def test_a_result_json_of_another_program_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match="holds no result"):
        save(result(0), tmp_path)
    assert (tmp_path / "result.json").read_text() == text


@pytest.mark.parametrize("model", [None, hooked], ids=["tensors", "model"])
def test_files_of_the_user_beside_a_result_survive_every_save(tmp_path, model):
    save(result(0, model and model(0)), tmp_path)
    put(tmp_path)
    mine = {name: (tmp_path / name).read_text() for name in MINE}
    inside = next((p for p in tmp_path.glob("model-*") if (p / "manifest.json").is_file()), None)
    if inside is not None:
        (inside / "mine.txt").write_text("mine")
    for which in (1, 0, 1):
        save(result(which, model and model(which)), tmp_path)
        assert told(load(tmp_path)) == told(result(which, model and model(which)))
        assert {name: (tmp_path / name).read_text() for name in MINE} == mine
    assert inside is None or (inside / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["hooked-model", "export", "references"])
def test_a_directory_that_also_holds_files_of_the_user_is_refused(tmp_path, name):
    KINDS[name].write(tmp_path / "thing", 0)
    (tmp_path / "thing" / "mine.md").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"holds mine.md, which unpact-lens did not write; give another directory"):
        KINDS[name].write(tmp_path / "thing", 1)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("write", [lambda p: save(result(1), p), lambda p: save_model(hooked(1), p),
                                   lambda p: export_hf(hooked(1), p), lambda p: write_text(p, "x")],
                         ids=["save", "save_model", "export_hf", "write_text"])  # fmt: skip
def test_a_symbolic_link_in_the_way_is_refused_and_stays(tmp_path, write):
    target = tmp_path / "target"
    target.mkdir()
    (target / "data.csv").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(InputError):
        write(link)
    assert link.is_symlink()
    assert [p.name for p in target.iterdir()] == ["data.csv"]


def test_a_linked_result_json_is_refused(tmp_path):
    save(result(0), tmp_path / "other")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "result.json").symlink_to(tmp_path / "other" / "result.json")
    with pytest.raises(InputError, match=r"result.json is a symbolic link or a directory"):
        save(result(1), tmp_path / "r")
    assert told(load(tmp_path / "other")) == told(result(0))


@pytest.mark.parametrize("spelled", [".", "./", "../here"])
def test_the_current_directory_is_refused_and_left_as_it_is(tmp_path, monkeypatch, spelled):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match="is in use as a current directory or a mount"), fresh_directory(Path(spelled)):
        pass
    assert os.listdir(tmp_path) == ["here"]
    assert os.listdir(here) == []


def test_a_live_writer_is_not_swept(tmp_path):
    with fresh_directory(tmp_path / "one") as first:
        (first / "a").write_text("1")
        with fresh_directory(tmp_path / "two") as second:
            (second / "b").write_text("2")
        assert (first / "a").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}
    assert not any(SCRATCH in p.name for p in tmp_path.rglob("*"))
