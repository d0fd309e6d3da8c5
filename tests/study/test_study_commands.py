"""`unpact study` runs a study, and its verbs look at it."""

import json
import sys

import pytest
import yaml

import unpact_lens as ul
from tests.study.small_study import METHODS, small_config
from unpact_lens import cli


@pytest.fixture
def unpact(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["unpact", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


def write(folder, **changes):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(small_config(folder, **changes)))
    return path


@pytest.mark.hooked
def test_a_study_is_planned_run_looked_at_and_cleaned(unpact, tmp_path):
    config, out = write(tmp_path, methods=METHODS[:1]), tmp_path / "out"
    status, text, err = unpact("study", config, "--out", out, "--dry-run", "--json")
    assert status == 0, err
    (row,) = json.loads(text)
    assert (row["method"], row["state"]) == ("ga", "waiting")
    assert not out.exists()

    status, text, err = unpact("study", config, "--out", out, "--json")
    assert status == 0, err
    assert json.loads(text)[0]["method"] == "ga"

    status, text, err = unpact("study", "status", out, "--json")
    assert status == 0, err
    assert json.loads(text)[0]["state"] == "finished"

    status, text, err = unpact("study", "clean", out, "--all", "--json")
    assert status == 0, err
    assert {"before", "plan", "cells/ga-seed0"} <= {row["path"] for row in json.loads(text)}
    assert not list(out.rglob("*"))


@pytest.mark.hooked
def test_a_failed_cell_gives_status_3_and_retry_runs_it(unpact, tmp_path, monkeypatch):
    config, out = write(tmp_path), tmp_path / "out"
    real = ul.unlearning.unlearn

    def unlearn(*arguments, **options):
        if options["method"] == "npo":
            raise RuntimeError("no memory")
        return real(*arguments, **options)

    monkeypatch.setattr(ul.unlearning, "unlearn", unlearn)
    status, _, err = unpact("study", config, "--out", out, "--json")
    assert status == 3
    assert "failed: npo with seed 0: RuntimeError: no memory" in err
    assert "unpact study retry" in err
    monkeypatch.undo()


def test_the_schema_is_printed(unpact):
    status, text, _ = unpact("study", "schema")
    assert status == 0
    assert json.loads(text)["properties"]["seeds"]["description"].startswith("Random seeds")


@pytest.mark.parametrize("share", ["1", "a/b", "1/2/3", "-1/4", "4/4"])
def test_a_share_that_is_none_is_refused(unpact, tmp_path, share):
    status, _, err = unpact("study", write(tmp_path), "--out", tmp_path / "out", f"--share={share}")
    assert status == 2
    assert "i/n" in err
    assert not (tmp_path / "out").exists()
