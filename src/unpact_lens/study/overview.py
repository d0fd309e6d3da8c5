"""Look at a study without running it: what is finished, what the rest will cost, what can be removed."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from unpact_lens.errors import InputError
from unpact_lens.results import read_json, written_files
from unpact_lens.source_hash import source_hash
from unpact_lens.study.cells import cell_name, known_failure
from unpact_lens.study.claims import held, sweep
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.costs import cell_cost
from unpact_lens.study.folder import (
    CELLS,
    CHECKPOINTS,
    CLAIMS,
    COST,
    FILES,
    FINGERPRINT,
    MARK,
    MODELS,
    check_folder,
    read_folder,
    remove_part,
)
from unpact_lens.study.keys import CELL, SHARED, excluded, leaves, resolved
from unpact_lens.study.tasks import Task, cell_tasks
from unpact_lens.unlearning.checkpointing import remove_state
from unpact_lens.writing import remove_named

FINISHED, OUT_OF_DATE, FAILED, RUNNING, STARTED, WAITING = (
    "finished", "out of date", "failed", "running", "interrupted", "waiting",
)  # fmt: skip
"""States of a cell."""


def study_status(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the state of each cell of a study, without loading any model.

    A cell is `finished`, `out of date` (its configuration or the code has changed since), `failed` (its error is in the
    column `note`), `running` (in a process that is alive), `interrupted` (it goes on from its checkpoint) or `waiting`.
    Weights and data are not compared here; a run compares them.

    Args:
        folder: Directory of the study.

    Returns:
        Columns `method, seed, state, seconds, note`.

    Raises:
        InputError: If the directory holds no study.
    """
    opened = read_folder(folder)
    config = StudyConfig.model_validate(opened.config)
    return pd.DataFrame([_row(opened.folder, config, opened.threads, task) for task in cell_tasks(config)])


def planned(config: StudyConfig, folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return every cell of a study with its state and its estimated cost; nothing is run or written.

    Args:
        config: Configuration of the study.
        folder: Directory of the study; it need not exist.

    Returns:
        Columns `method, seed, state, seconds, memory_gb, source`. Seconds of cells that are finished are measured.

    Raises:
        InputError: If the directory holds other things than a study.
    """
    place = check_folder(folder)
    threads = read_folder(place).threads if (place / MARK).is_file() else config.threads
    methods = {m.name: m for m in config.methods}
    rows = []
    for task in cell_tasks(config):
        state = _row(place, config, threads, task)
        cost = cell_cost(config, methods[task.method], place)
        done = state["state"] == FINISHED
        rows.append(
            {
                "method": task.method,
                "seed": task.seed,
                "state": state["state"],
                "seconds": state["seconds"] if done else cost.seconds,
                "memory_gb": None if cost.memory is None else round(cost.memory / 1e9, 2),
                "source": "finished" if done else cost.source,
            }
        )
    return pd.DataFrame(rows)


def clean_study(folder: str | os.PathLike[str], *, everything: bool = False) -> pd.DataFrame:
    """Remove what a study no longer needs; files that it did not write stay.

    Removed are checkpoints, records of failures, claims of dead processes, and the cells and models that are out of
    date or no longer in the configuration.

    Args:
        folder: Directory of the study.
        everything: If True, remove all that the study wrote: its parts, models, tables and report as well.

    Returns:
        Columns `path, bytes` of what was removed.

    Raises:
        InputError: If the directory holds no study, or one of its cells is running.
    """
    opened = read_folder(folder)
    check_folder(folder)
    place = opened.folder
    sweep(place / CLAIMS)
    running = [p.name for p in (place / CLAIMS).glob("*.claim")]
    if running:
        raise InputError(f"{place} is in use ({running[0]}); wait until it has ended, or end it first")
    status = study_status(place)
    kept = {
        cell_name(str(r["method"]), int(r["seed"])) for r in status.to_dict("records") if r["state"] == FINISHED
    } if not everything else set()  # fmt: skip
    removed: dict[str, int] = {}
    parts = [place / name for name in SHARED] if everything else []
    for path in [
        *parts, *(p for below in (CELLS, MODELS) for p in sorted((place / below).glob("*")) if p.name not in kept)
    ]:  # fmt: skip
        if path.exists() and (freed := remove_part(path)):
            removed[str(path.relative_to(place))] = freed
    for path in sorted((place / CHECKPOINTS).glob("*-seed*-*")):
        if not path.is_symlink() and path.is_dir():
            removed[str(path.relative_to(place))] = remove_state(path)
    if everything:
        for name in (*written_files(place), *FILES):  # The record is read before it is removed.
            if freed := remove_named(place, [name]):
                removed[name] = freed
    for name in (CLAIMS, CHECKPOINTS, CELLS, MODELS):
        if (place / name).is_dir() and not any((place / name).iterdir()):
            (place / name).rmdir()
    return pd.DataFrame(list(removed.items()), columns=["path", "bytes"])


def _row(folder: Path, config: StudyConfig, threads: int | None, task: Task) -> dict[str, object]:
    """Return the row of one cell in the table of states."""
    name = cell_name(task.method, task.seed)
    place = folder / CELLS / name
    state, note, seconds = WAITING, "", None
    if held(folder / CLAIMS, f"{CELLS}/{name}"):
        state = RUNNING
    elif (place / FINGERPRINT).is_file():
        note = _stale(place / FINGERPRINT, config, threads, task)
        state = OUT_OF_DATE if note else FINISHED
        seconds = _cost_of(place)
    elif (error := known_failure(place)) is not None:
        state, note = FAILED, error
    elif any((folder / CHECKPOINTS).glob(f"{name}-*")):
        state = STARTED
    return {"method": task.method, "seed": task.seed, "state": state, "seconds": seconds, "note": note}


def _cost_of(place: Path) -> float | None:
    try:
        record = read_json(place / COST)
    except (InputError, OSError):
        return None
    found = record.get("seconds") if isinstance(record, dict) else None
    return float(found) if isinstance(found, (int, float)) else None


def _stale(mark: Path, config: StudyConfig, threads: int | None, task: Task) -> str:
    """Name what has changed since a cell was computed, without loading a model; empty if nothing has."""
    try:
        key = read_json(mark)
    except InputError:
        return "written by another version"
    if not isinstance(key, dict) or not isinstance(key.get("config"), dict):
        return "written by another version"
    fixed = config.model_copy(update={"threads": threads})
    now = {k: v for k, v in leaves(resolved(fixed)).items() if not excluded(k, CELL)}
    method = next(m for m in config.methods if m.name == task.method)
    changed = [k for k in {**key["config"], **now} if k != "load.device" and key["config"].get(k) != now.get(k)]
    if key.get("method") != method.model_dump(mode="json"):
        changed.append("method")
    if key.get("code") != source_hash():
        changed.append("code")
    return f"changed since: {', '.join(sorted(changed))}" if changed else ""
