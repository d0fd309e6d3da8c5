"""Results that version 0.1 saved are loaded with the same fields and give the same tables.

`saved_0_1/` was written by version 0.1.0 (commit 9fe8750): one directory for each kind of result, and beside it the
table that version 0.1.0 made of it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import unpact_lens
from unpact_lens import results
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import load_checkpoint, model_hash
from unpact_lens.results import MIGRATED, Migration, load

SAVED = Path(__file__).parent / "saved_0_1"
NAMES = sorted(p.parent.name for p in SAVED.glob("*/result.json"))
TUNING = Path(__file__).parents[1] / "experiments" / "tuning"


def check(raw, loaded, tensors, folder):
    """Compare a value of `result.json` with what was loaded from it."""
    if isinstance(raw, list):
        assert len(raw) == len(loaded)
        for a, b in zip(raw, loaded, strict=True):
            check(a, b, tensors, folder)
    elif not isinstance(raw, dict):
        assert loaded == raw or (raw != raw and loaded != loaded)
    elif "__tensor__" in raw or "__array__" in raw:
        expected = tensors[raw.get("__tensor__") or raw["__array__"]]
        torch.testing.assert_close(torch.as_tensor(loaded), expected, atol=0, rtol=0, equal_nan=True)
    elif "__model__" in raw:
        assert model_hash(loaded) == model_hash(load_checkpoint(folder / raw["__model__"]))
        assert raw["__model__"] == f"model-{model_hash(loaded)[:16]}"
    elif "__path__" in raw:
        assert loaded == Path(raw["__path__"])
    elif "__tuple__" in raw:
        assert isinstance(loaded, tuple)
        check(raw["__tuple__"], list(loaded), tensors, folder)
    elif "__type__" in raw:
        migration = MIGRATED.get(raw["__type__"], Migration(raw["__type__"]))
        assert type(loaded).__name__ == migration.name
        for name, value in raw["fields"].items():
            if (now := migration.fields.get(name, name)) is not None:
                check(value, getattr(loaded, now), tensors, folder)
    else:
        assert raw.keys() == loaded.keys()
        for key, value in raw.items():
            check(value, loaded[key], tensors, folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_loaded(name):
    folder = SAVED / name
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / record["tensors"]) if record["tensors"] else {}
    check(record["result"], load(folder), tensors, folder)


ADDED = {"recovery": ["excess p"]}
"""Columns that version 0.1 did not have."""

INTERVALS_CHANGED = ("cell", "recovery", "scores", "study")
"""Results whose intervals and p-values of rates are computed from the saved outcomes. Version 0.1 took facts about one
subject for independent facts."""


@pytest.mark.parametrize("name", [n for n in NAMES if (SAVED / f"{n}.csv").exists()])
def test_tables_have_the_same_columns_and_numbers(name):
    expected = pd.read_csv(SAVED / f"{name}.csv")
    frame = load(SAVED / name).to_frame()
    frame = frame.reset_index() if frame.index.name else frame
    frame = frame.rename(columns=str).drop(columns=ADDED.get(name, []))
    assert list(frame.columns) == list(expected.columns)
    assert len(frame) == len(expected)
    for column in expected.select_dtypes("number"):
        if name in INTERVALS_CHANGED and re.search(r"(^|[ _])(low|high|p)$", column):
            continue
        found = pd.to_numeric(frame[column])
        np.testing.assert_allclose(found.to_numpy(float), expected[column].to_numpy(float), rtol=1e-9, atol=1e-12)


@pytest.mark.hooked
def test_a_fresh_process_finds_every_class():
    code = "import sys, unpact_lens as ul\nfor p in sys.argv[1:]: print(type(ul.load(p)).__name__)"
    paths = [str(SAVED / name) for name in NAMES]
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert len(run.stdout.split()) == len(NAMES)


def test_results_of_the_repository_are_loaded():
    paths = sorted(TUNING.glob("*/*/result.json"))
    assert paths
    for path in paths:
        tuning = load(path.parent)
        assert type(tuning).__name__ == "Tuning"
        assert len(tuning.to_frame())


def test_every_class_that_can_be_saved_is_in_the_table():
    for module in pkgutil.walk_packages(unpact_lens.__path__, "unpact_lens."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = {name for name, cls in results._TYPES.items() if cls.__module__.startswith("unpact_lens.")}
    assert ours == set(results._TYPES_AT)
    for name, home in results._TYPES_AT.items():
        assert results._TYPES[name].__module__.startswith(f"unpact_lens.{home}")


def test_a_renamed_class_and_its_renamed_fields_are_loaded(tmp_path, monkeypatch):
    @results.storable
    @dataclasses.dataclass(frozen=True)
    class Renamed:
        kept: int
        new: str

    saved = Renamed(3, "text")
    results.save(saved, tmp_path)
    file = tmp_path / "result.json"
    record = json.loads(file.read_text())
    record["result"] = {"__type__": "Former", "fields": {"kept": 3, "old": "text", "gone": 1.0}}
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="contains a Former, which this version of unpact-lens does not know; upgrade"):
        load(tmp_path, verify=False)
    monkeypatch.setitem(MIGRATED, "Former", Migration("Renamed", {"old": "new", "gone": None}))
    assert load(tmp_path, verify=False) == saved
    monkeypatch.setitem(MIGRATED, "Former", Migration("Renamed"))
    with pytest.raises(InputError, match=r"contains a Former with other fields: .*unexpected keyword"):
        load(tmp_path, verify=False)
