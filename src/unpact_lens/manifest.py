"""Write and check the manifest of a directory: the SHA-256 of each of its files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unpact_lens.errors import InputError
from unpact_lens.json_files import read_record, write_record
from unpact_lens.writing import contents, sha256

MANIFEST = "manifest.json"
"""Name of the manifest in its directory."""

FORMAT = 1
"""Version of the manifest."""


def write_manifest(directory: Path) -> dict[str, str]:
    """Write the manifest of a directory and return it: the SHA-256 of each file, by its relative path."""
    files = {name: found for name, found in contents(directory).items() if name != MANIFEST}
    write_record(directory / MANIFEST, {"format": FORMAT, "files": files})
    return files


def read_manifest(directory: Path) -> dict[str, str] | None:
    """Return the manifest of a directory; None if it has none.

    Raises:
        InputError: If the manifest is damaged or of a newer format.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return None
    record = read_record(path, sealed_since=1)
    if (number := record.get("format")) != FORMAT:
        raise InputError(f"{path} has format {number!r}, this version reads {FORMAT}; upgrade unpact-lens")
    return checked_files(record.get("files"), path)


def sums_of(path: Path) -> dict[str, str]:
    """Return the SHA-256 of a file (by the name `""`), or of each file of a directory that has a fresh manifest."""
    files = None if path.is_file() else read_manifest(path)
    return contents(path) if files is None else {**files, MANIFEST: sha256(path / MANIFEST)}


def checked_files(files: object, path: Path) -> dict[str, str]:
    """Return the entry `files` of a record.

    Raises:
        InputError: If it is not a mapping from relative paths to SHA-256 sums.
    """
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise InputError(f"{path} is damaged: its entry 'files' names no files with their SHA-256")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise InputError(f"{path} names files outside its directory")
    return files


def check_files_of(directory: Path, files: dict[str, str], remedy: str) -> None:
    """Check that each named file is there and has its SHA-256.

    Args:
        directory: Directory of the files.
        files: SHA-256 of each file, by its relative path.
        remedy: What to do about a damaged file, for the message.

    Raises:
        InputError: If a file is missing or differs.
    """
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise InputError(f"{path} is missing; {remedy}")
        if sha256(path) != expected:
            raise InputError(f"{path} is damaged: it does not match its SHA-256; {remedy}")


def check_manifest(directory: Path, remedy: str, *, required: bool = False) -> None:
    """Check the files of a directory against its manifest, if it has one.

    Args:
        directory: Directory.
        remedy: What to do about a damaged file, for the message.
        required: Whether a missing manifest is an error.

    Raises:
        InputError: If a file is missing or differs, or the manifest is damaged.
    """
    files = read_manifest(directory)
    if files is not None:
        check_files_of(directory, files, remedy)
    elif required:
        raise InputError(f"{directory / MANIFEST} is missing; {remedy}")


def foreign_files(directory: Path, known: Iterable[str]) -> list[Path]:
    """Return the files of a directory that this library did not write, relative to it.

    Args:
        directory: Directory.
        known: Patterns of the files that versions without a manifest wrote, e.g. `tokenizer/*`.
    """
    try:
        files = read_manifest(directory)
    except InputError:  # What is damaged may be replaced.
        files = None
    named = {Path(MANIFEST), *map(Path, files or ())}
    if files is None:
        named |= {p.relative_to(directory) for pattern in known for p in directory.glob(pattern)}
    found = (p for p in sorted(directory.rglob("*")) if p.is_symlink() or not p.is_dir())
    return [p.relative_to(directory) for p in found if p.is_symlink() or p.relative_to(directory) not in named]
