"""Read and write JSON files: of limited size and depth, written whole, with a checksum where numbers are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unpact_lens.errors import InputError
from unpact_lens.writing import replaced_file

CHECKSUM = "checksum"
"""Entry of a sealed record: the SHA-256 of all its other entries."""

MAX_DEPTH = 100
"""Largest number of lists and objects inside each other in a file."""

MAX_BYTES = 2**30
"""Largest size of a file, bytes."""


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole: write it into a scratch directory, flush it, then rename it.

    Raises:
        InputError: If a directory or a symbolic link is in its place.
    """
    with replaced_file(path) as new:
        new.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: object) -> Path:
    """Write JSON whole. NaN and infinities are written in the form that `read_json` reads."""
    return write_text(path, json_text(value))


def json_text(value: object) -> str:
    """Return a value as the text of a JSON file."""
    return json.dumps(value, indent=1, ensure_ascii=False)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: If the file cannot be read, is not valid JSON, or is larger or deeper than any that this library
            writes. The message names the file, and the position where there is one.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{path} has {size} bytes; a JSON file may have at most {MAX_BYTES}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except RecursionError:
        raise InputError(f"{path} has more than {MAX_DEPTH} lists and objects inside each other") from None
    except ValueError as error:  # JSON, UTF-8, and numbers with too many digits
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if deeper_than(value, MAX_DEPTH):
        raise InputError(f"{path} has more than {MAX_DEPTH} lists and objects inside each other")
    return value


def deeper_than(value: object, depth: int) -> bool:
    """Return whether more than `depth` lists and dicts lie inside each other.

    >>> deeper_than([[1], {"a": []}], 2), deeper_than([[1], {"a": []}], 3)
    (True, False)
    """
    level = [value]
    for _ in range(depth + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                below += item.values()
            elif isinstance(item, (list, tuple)):
                below += item
            else:
                continue
            below.append(None)  # An empty container is a level, too.
        if not below:
            return False
        level = below
    return True


def sealed(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record with a checksum of all its entries."""
    bare = {k: v for k, v in record.items() if k != CHECKSUM}
    return {**bare, CHECKSUM: _checksum(bare)}


def write_record(path: Path, record: Mapping[str, object]) -> Path:
    """Write a sealed record; see `sealed` and `read_record`."""
    return write_json(path, sealed(record))


def read_record(path: Path, *, verify: bool = True, sealed_since: int | None = None) -> dict[str, Any]:
    """Read a record and check its checksum.

    Args:
        path: File.
        verify: Whether the checksum is checked.
        sealed_since: First format (entry `format`) in which a checksum is required. If None, it is required never.

    Raises:
        InputError: If the file is no JSON object, or the checksum is missing or wrong.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object")
    if not verify:
        return record
    number = record.get("format")
    required = sealed_since is not None and isinstance(number, int) and number >= sealed_since
    if (required or CHECKSUM in record) and sealed(record)[CHECKSUM] != record.get(CHECKSUM):
        raise InputError(f"{path} is damaged: its content does not match its checksum")
    return record


def _checksum(record: Mapping[str, object]) -> str:
    """Compute the SHA-256 of a record, which does not depend on spaces and the order of entries."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
