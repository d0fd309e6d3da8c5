"""Open the directory of a study: refuse what is not ours before any work, and remove only what we wrote.

`study.json` marks the directory. It holds the configuration and the number of torch threads of all parts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import written_model_files
from unpact_lens.results import RESULT, read_json, write_json, written_files
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.keys import SHARED
from unpact_lens.writing import remove_named

MARK = "study.json"
"""File that marks the directory of a study."""

FINGERPRINT, FAILURE, COST = "fingerprint", "failure.json", "cost.json"
"""Files of a part beside its result: its key, its error, and its measured time and memory."""

CELLS, MODELS, CHECKPOINTS, CLAIMS = "cells", "models", "checkpoints", ".claims"
"""Directories of a study: finished cells, unlearned models, training states of unfinished cells, parts at work."""

FILES = (MARK, "result.json", "table.csv", "report.html")
"""Files that a study writes into its directory."""

FORMAT = 1
"""Version of `study.json`."""


@dataclass(frozen=True)
class StudyFolder:
    """Hold the content of `study.json`.

    Attributes:
        folder: Directory of the study.
        config: Configuration as JSON values, with every default filled in.
        threads: Number of torch threads with which all parts are computed.
    """

    folder: Path
    config: dict[str, object]
    threads: int


def is_study_folder(folder: Path) -> bool:
    """Return whether a study wrote this directory, in this version or in 0.1."""
    mark = folder / MARK
    if mark.is_file() and not mark.is_symlink() and "unpact_lens_study" in _record(mark):
        return True
    return any(path.is_file() for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{FINGERPRINT}"))


def check_folder(out: str | os.PathLike[str]) -> Path:
    """Refuse a directory that a study cannot use, before any work.

    Args:
        out: Directory of the study. It need not exist.

    Returns:
        The directory.

    Raises:
        InputError: If it is a file, cannot be written to, holds other things than a study, or has a symbolic link or
            a file where the study writes a directory.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a study is written to a directory")
    if folder.is_dir() and any(folder.iterdir()) and not is_study_folder(folder):
        found = min(p.name for p in folder.iterdir())
        raise InputError(
            f"{folder} is not empty and holds no study (it has {found!r}); give a new or an empty directory"
        )
    for name in (*SHARED, CELLS, MODELS, CHECKPOINTS, CLAIMS):
        for path in (folder / name, *_children(folder / name)):
            if path.is_symlink():
                raise InputError(f"{path} is a symbolic link, which a study does not follow; remove it")
            if path.exists() and path == folder / name and not path.is_dir():
                raise InputError(f"{path} is a file, where the study writes a directory; move it away")
            for file in (FINGERPRINT, FAILURE, COST, RESULT):
                if (path / file).is_dir():
                    raise InputError(f"{path / file} is a directory, where the study writes a file; move it away")
    for name in FILES:
        if (folder / name).is_symlink() or (folder / name).is_dir():
            raise InputError(f"{folder / name} is a link or a directory, where the study writes a file; move it away")
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {above}; give another directory with --out")
    return folder


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def open_folder(out: str | os.PathLike[str], config: StudyConfig, threads: int | None = None) -> StudyFolder:
    """Check a directory and mark it as the study's.

    All parts of a study are computed with one number of torch threads, because another number can change the last bits
    of a sum. It is that of the configuration, else that of the first run in the directory, else `threads`.

    Args:
        out: Directory of the study.
        config: Configuration of the study.
        threads: Number of threads for the first run. If None, the number that torch uses now.

    Raises:
        InputError: As `check_folder`.
    """
    folder = check_folder(out)
    mark = folder / MARK
    known = _record(mark).get("threads") if mark.is_file() else None
    number = config.threads or (known if isinstance(known, int) else None) or threads or torch.get_num_threads()
    found = StudyFolder(folder, config.model_dump(mode="json"), number)
    record = {"unpact_lens_study": FORMAT, "config": found.config, "threads": number}
    if not mark.is_file() or _record(mark) != record:
        try:
            write_json(mark, record)
        except OSError as error:
            raise InputError(f"cannot write to {folder} ({error.strerror}); give another directory") from None
    return found


def read_folder(folder: str | os.PathLike[str]) -> StudyFolder:
    """Read `study.json`.

    Raises:
        InputError: If the directory holds no study of this version.
    """
    place = Path(folder)
    if not (place / MARK).is_file():
        raise InputError(f"no study at {place}: {MARK} is missing; give the directory of `unpact study --out`")
    record = _record(place / MARK)
    config, threads = record.get("config"), record.get("threads")
    if not isinstance(config, dict) or not isinstance(threads, int):
        raise InputError(f"{place / MARK} is damaged; run `unpact study` again with this directory")
    return StudyFolder(place, config, threads)


def _record(path: Path) -> dict[str, object]:
    try:
        record = read_json(path)
    except (InputError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def remove_part(place: Path) -> int:
    """Remove what a study wrote into the directory of a part; other files stay.

    Args:
        place: Directory of the part.

    Returns:
        Number of bytes removed.
    """
    freed = remove_named(place, _written(place))
    if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
        place.rmdir()
    return freed


def _written(place: Path) -> list[str]:
    """Return the relative paths of the files of a part that a study wrote."""
    if place.is_symlink() or not place.is_dir():
        return []
    return written_model_files(place) or [FINGERPRINT, FAILURE, COST, RESULT, *written_files(place)]
