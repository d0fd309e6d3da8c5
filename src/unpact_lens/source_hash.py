"""Hash the source of the package, so that results of another version of the code are recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent

UNHASHED: dict[str, str] = {
    "cli": "reads arguments and prints; it computes no stored number",
    "console.py": "prints tables",
    "progress.py": "shows a progress bar",
    "text_tables.py": "writes tables as text",
    "plots": "draws figures from results that are finished",
    "report": "writes pages from results that are finished",
    "study/configs": "a shipped configuration is in each key by its content",
    "py.typed": "an empty file for type checkers",
}
"""Files and folders of the package whose change leaves every stored number as it is, with the reason."""


@cache
def source_hash(package: Path = PACKAGE, excluded: Collection[str] = tuple(UNHASHED), pattern: str = "*") -> str:
    """Compute the SHA-256 of every file of a package: names and bytes, in the order of the names.

    Files that the package ships as data (weights, word lists, tables) count as source. The value is computed once a
    process.

    Args:
        package: Directory of the package.
        excluded: Files and folders to leave out, relative to `package`, as a tuple.
        pattern: Pattern of the names of the files.
    """
    hasher = hashlib.sha256()
    for name, path in sorted((p.relative_to(package).as_posix(), p) for p in package.rglob(pattern) if p.is_file()):
        parts = name.split("/")
        if any(part.startswith((".", "__pycache__")) for part in parts):
            continue
        if any("/".join(parts[:n]) in excluded for n in range(1, len(parts) + 1)):
            continue
        content = path.read_bytes()
        hasher.update(f"{name}|{len(content)}|".encode())
        hasher.update(content)
    return hasher.hexdigest()
