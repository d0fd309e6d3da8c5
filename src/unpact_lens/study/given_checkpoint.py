"""Identify a checkpoint that a study is given in place of a method that it trains."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from unpact_lens.models.load import NAMES, require_reachable

MARKS = ("config.json", "adapter_config.json", "result.json")
"""Files of which the directory of a model has at least one."""

READ = ("*.safetensors", "*.json", "*.jinja", "*.model")
"""Files that decide what a model answers."""


def checkpoint_refusal(spec: str) -> str | None:
    """Return why a checkpoint cannot be loaded, or None; nothing is loaded.

    Args:
        spec: Directory, hub id or name of a model.
    """
    path = Path(spec).expanduser()
    if spec in NAMES:
        return None
    if path.is_dir():
        if any((path / mark).is_file() for mark in MARKS):
            return None
        return f"checkpoint {spec!r} holds no model; give the directory that save_pretrained() wrote"
    if path.exists():
        return f"checkpoint {spec!r} is a file; give the directory of a model"
    try:
        require_reachable(spec)
    except ValueError as error:
        return f"checkpoint {spec!r}: {error}"
    return None


def checkpoint_identity(spec: str) -> str:
    """Compute the SHA-256 of a checkpoint's files; a name or a hub id stands for itself.

    Args:
        spec: Directory, hub id or name of a model.
    """
    path = Path(spec).expanduser()
    if not path.is_dir():
        return spec
    files = sorted({file for pattern in READ for file in path.rglob(pattern) if file.is_file()})
    return _hash(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files), str(path))


@lru_cache(maxsize=64)
def _hash(files: tuple[tuple[str, int, int], ...], root: str) -> str:
    """Compute the hash of files by their names below a directory and their bytes."""
    hasher = hashlib.sha256()
    for name, size, _ in files:
        hasher.update(f"{Path(name).relative_to(root).as_posix()}|{size}|".encode())
        with open(name, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 22), b""):
                hasher.update(block)
    return hasher.hexdigest()
