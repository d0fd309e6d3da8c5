"""A study writes only into its own directory, and removes only what it wrote."""

import importlib
import json

import pytest

from tests.study.small_study import METHODS, small_config
from unpact_lens.errors import InputError
from unpact_lens.study import clean_study, load_config, planned, run_study, study_status
from unpact_lens.study.folder import check_folder
from unpact_lens.writing import contents

cells = importlib.import_module("unpact_lens.study.cells")
workspace = importlib.import_module("unpact_lens.study.workspace")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study with files of the user in every one of its directories."""
    folder = tmp_path_factory.mktemp("study")
    config = load_config(small_config(folder, methods=METHODS[:1], save_models=True))
    run_study(config, folder / "out", progress=False)
    return folder / "out", config


def snapshot(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["plan/my-notes.txt", "before/data.csv", "cells/ga-seed0/mine.json", "thesis.tex"])
def test_a_directory_that_is_not_ours_is_refused_before_any_work(tmp_path, name, monkeypatch):
    monkeypatch.setattr(workspace, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    before = snapshot(tmp_path / "out")
    with pytest.raises(InputError, match=r"holds no study .* give a new or an empty directory"):
        run_study(load_config(small_config(tmp_path)), tmp_path / "out", progress=False)
    assert snapshot(tmp_path / "out") == before


def test_files_of_the_user_inside_a_study_survive_a_recomputation(finished):
    folder, config = finished
    mine = ["plan/my-notes.txt", "before/data.csv", "cells/ga-seed0/mine.json", "thesis.tex", "models/notes.txt"]
    for name in mine:
        (folder / name).write_text("mine")
    changed = load_config({**config.model_dump(mode="json"), "batch_tokens": 300})
    run_study(changed, folder, progress=False)
    assert all((folder / name).read_text() == "mine" for name in mine)
    removed = clean_study(folder, everything=True)
    assert len(removed) >= 8
    assert set(snapshot(folder)) == set(mine)
    for name in mine:
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["plan", "cells", "cells/ga-seed0", "models", "result.json", "study.json"])
def test_a_symbolic_link_in_the_way_is_refused_and_not_followed(tmp_path, name):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    config = load_config(small_config(tmp_path))
    (out / name).parent.mkdir(parents=True)
    (out / "study.json").write_text(json.dumps({"unpact_lens_study": 1}))
    if name == "study.json":
        (out / name).unlink()
    (out / name).symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(InputError, match="link"):
        run_study(config, out, progress=False)
    assert (out / name).is_symlink()
    assert [p.name for p in elsewhere.iterdir()] == ["mine.txt"]


def test_a_file_or_a_place_without_permission_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file; a study is written to a directory"):
        check_folder(tmp_path / "file")
    with pytest.raises(InputError, match="cannot write to"):
        check_folder(tmp_path / "file" / "below")


def test_a_damaged_part_is_computed_again_with_a_note(tmp_path):
    config = load_config(small_config(tmp_path, methods=METHODS[:1]))
    study = run_study(config, tmp_path / "out", progress=False)
    said = []
    for number, part in enumerate(("before", "plan", "cells/ga-seed0")):
        (tmp_path / "out" / part / "result.json").write_text(("", "{", '{"result": 3')[number])
    opened = config.model_copy(update={"threads": 1})
    space = workspace.Workspace(opened, tmp_path / "out", said.append)
    assert space.before == study.before
    assert sum("before is damaged and is computed again" in text for text in said) == 1
    again = run_study(config, tmp_path / "out", progress=False)
    assert again.cells[0].scores == study.cells[0].scores
    assert again.cells[0].recovery == study.cells[0].recovery


def test_a_deleted_model_is_made_again(tmp_path):
    config = load_config(small_config(tmp_path, methods=METHODS[:1], save_models=True))
    run_study(config, tmp_path / "out", progress=False)
    model = tmp_path / "out" / "models" / "ga-seed0"
    weights = (model / "model.safetensors").read_bytes()
    for path in sorted(model.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    model.rmdir()
    run_study(config, tmp_path / "out", progress=False)
    assert (model / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("file", ["manifest.json", "config.json", "model.safetensors", "tokenizer/tokenizer.json"])
def test_a_damaged_model_is_made_again(tmp_path, file):
    config = load_config(small_config(tmp_path, methods=METHODS[:1], save_models=True))
    run_study(config, tmp_path / "out", progress=False)
    model = tmp_path / "out" / "models" / "ga-seed0"
    before = contents(model)
    (model / file).write_bytes((model / file).read_bytes()[:-20])
    run_study(config, tmp_path / "out", progress=False)
    assert contents(model) == before
    (model / file).unlink()
    (model / "mine.txt").write_text("not of this package")
    with pytest.raises(InputError, match=r"mine\.txt, which unpact-lens did not write"):
        run_study(config, tmp_path / "out", progress=False)
    (model / "mine.txt").unlink()
    assert run_study(config, tmp_path / "out", retry=True, progress=False).failed == ()
    assert contents(model) == before


def failing(monkeypatch, method, error):
    """Let unlearning with one method fail, and count the calls by method."""
    real, calls = cells.unlearning.unlearn, []

    def unlearn(*arguments, **options):
        calls.append(options["method"])
        if options["method"] == method:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(cells.unlearning, "unlearn", unlearn)
    return calls


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    config = load_config(small_config(tmp_path))
    out = tmp_path / "out"
    calls = failing(monkeypatch, "ga", RuntimeError("no memory"))
    study = run_study(config, out, progress=False)
    assert [c.method for c in study.cells] == ["npo"]
    assert study.failed == ({"method": "ga", "seed": 0, "error": "RuntimeError: no memory"},)
    assert "1 cells failed: ga seed 0" in study.notes
    assert "no memory" in json.loads((out / "cells/ga-seed0/failure.json").read_text())["traceback"]
    status = study_status(out).set_index("method")
    assert status.loc["ga", "state"] == "failed"
    assert status.loc["ga", "note"] == "RuntimeError: no memory"
    assert status.loc["npo", "state"] == "finished"

    run_study(config, out, progress=False)
    assert calls == ["ga", "npo"]  # A cell that failed is not run again unasked.
    monkeypatch.undo()
    study = run_study(config, out, retry=True, progress=False)
    assert [c.method for c in study.cells] == ["ga", "npo"]
    assert not study.failed
    assert not (out / "cells/ga-seed0/failure.json").exists()


@pytest.mark.hooked
def test_a_study_whose_every_cell_fails_names_the_first_error(tmp_path, monkeypatch):
    failing(monkeypatch, "ga", InputError("rank=3 does not fit"))
    with pytest.raises(InputError, match="no cell of the study is finished; ga with seed 0: rank=3 does not fit"):
        run_study(load_config(small_config(tmp_path, methods=METHODS[:1])), tmp_path / "out", progress=False)


def test_a_share_runs_its_cells_only_and_the_last_one_completes_the_study(tmp_path):
    config = load_config(small_config(tmp_path))
    first = run_study(config, tmp_path / "out", share=(1, 2), progress=False)
    assert [c.method for c in first.cells] == ["npo"]
    assert "1 cells are not finished: ga-seed0" in first.notes
    both = run_study(config, tmp_path / "out", share=(0, 2), progress=False)
    assert [c.method for c in both.cells] == ["ga", "npo"]
    assert not any("not finished" in note for note in both.notes)


def test_a_dry_run_lists_cells_and_costs_and_writes_nothing(tmp_path, monkeypatch):
    config = load_config(small_config(tmp_path, methods=METHODS[:1], seeds=[0, 1]))
    frame = planned(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(frame["state"]) == ["waiting", "waiting"]
    assert (frame["seconds"] > 0).all()
    assert (frame["memory_gb"] > 0.5).all()
    one = load_config({**config.model_dump(mode="json"), "seeds": [0]})
    run_study(one, tmp_path / "out", progress=False)
    frame = planned(config, tmp_path / "out")
    assert list(frame["state"]) == ["finished", "waiting"]
    assert frame["source"][1] == "measured on 1 cells of this method in this directory"
    assert frame["seconds"][1] == pytest.approx(frame["seconds"][0])


def test_status_names_what_changed_since_a_cell_was_computed(tmp_path, monkeypatch):
    config = load_config(small_config(tmp_path, methods=METHODS[:1]))
    run_study(config, tmp_path / "out", progress=False)
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    record["config"]["recovery"]["gain"] = 9.0
    (tmp_path / "out" / "study.json").write_text(json.dumps(record))
    status = study_status(tmp_path / "out")
    assert list(status["state"]) == ["out of date"]
    assert list(status["note"]) == ["changed since: recovery.gain"]
    with pytest.raises(InputError, match="no study at"):
        study_status(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs=0; give a number of processes"),
        ({"on": "slurm"}, "on='slurm'; give 'ray'"),
        ({"on": "ray", "jobs": 2}, "give one of the two"),
        ({"share": (3, 3)}, "share 3/3; give i/n"),
    ],
)
def test_a_way_to_run_that_makes_no_sense_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run_study(load_config(small_config(tmp_path)), tmp_path / "out", progress=False, **options)
