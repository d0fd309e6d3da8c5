"""Open the directory of an audit, and write its outputs."""

from __future__ import annotations

import os
from pathlib import Path

from unpact_lens.auditing.card import card_of
from unpact_lens.auditing.record import file_hash, record_of
from unpact_lens.auditing.result import Audit
from unpact_lens.errors import InputError
from unpact_lens.report import write_report
from unpact_lens.results import write_json, write_result, write_text

MARK = "audit-folder.json"
"""File that marks a directory as an audit's."""

RECORD, TABLE, CARD, REPORT = "audit.json", "table.csv", "card.md", "report.html"
"""Outputs of an audit."""


def open_audit_folder(out: str | os.PathLike[str]) -> Path:
    """Refuse a directory that an audit cannot use, and mark it.

    Args:
        out: Directory. It is new, empty, or that of an earlier audit.

    Raises:
        InputError: If it is a file, holds other things, or cannot be written.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; an audit is written to a directory")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        found = min(p.name for p in folder.iterdir())
        raise InputError(
            f"{folder} is not empty and holds no audit (it has {found!r}); give a new or an empty directory"
        )
    try:
        write_json(folder / MARK, {"unpact_lens_audit": 1})
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); give another directory") from None
    return folder


def write_outputs(found: Audit, folder: Path) -> None:
    """Write the audit, its table, report, card and record. The record is written last.

    Args:
        found: Finished audit.
        folder: Directory.
    """
    write_result(found, folder)
    write_text(folder / TABLE, found.to_frame().to_csv(index=False))
    write_report(found.as_study(), folder / REPORT)
    write_text(folder / CARD, card_of(found))
    files = {name: file_hash(folder / name) for name in (TABLE, REPORT, CARD, "result.json")}
    record = record_of(found, folder, files)
    write_text(folder / RECORD, record.model_dump_json(indent=1) + "\n")
