"""Write files and directories that a kill at any moment leaves whole.

1. Everything is first written into a scratch directory beside its place, then flushed to the disk.
2. It is moved into its place by rename. A record that names the files is moved last (`commit`), or the whole directory
   is exchanged (`replaced_directory`). A reader sees the old content or the new one.
3. Only files that the old record names are removed.

A writer locks its scratch directory as long as it lives, so the next writer can remove those of dead writers.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from unpact_lens.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks; leftovers of dead writers stay there
    fcntl = None  # type: ignore[assignment]

SCRATCH = ".unpact-tmp-"
"""Start of the name of every scratch directory."""

JOURNAL = "journal.json"
"""File of a scratch directory that names what its writer is about to move into place."""

REPLACED = "replaced"
"""Folder of a scratch directory that holds a directory while another one takes its place."""

TRIES = 1000
"""Number of times that a reader begins again because a writer replaced what it was reading."""

T = TypeVar("T")

CHUNK = 2**20
"""Number of bytes that are hashed at a time."""


class Scratch:
    """Make a scratch directory, locked until it is closed or its owner dies.

    Args:
        folder: Directory in which it is made, and which is made if it does not exist. Leftovers of dead writers there
            are removed first.

    Raises:
        InputError: If it cannot be made there.
    """

    def __init__(self, folder: Path) -> None:
        sweep(folder)
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.path = Path(tempfile.mkdtemp(dir=folder, prefix=SCRATCH))
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise InputError(f"cannot write to {folder} ({why}); give another place") from None
            lock = _lock(self.path, wait=True)
            if self.path.is_dir():  # Another writer may have swept it before it was locked.
                break
            _unlock(lock)
        self.close = weakref.finalize(self, _discard, self.path, lock, os.getpid())


def _discard(path: Path, lock: int | None, owner: int) -> None:
    if os.getpid() == owner:  # A forked child ends without removing what its parent still writes.
        _undo(path.parent, path)
        shutil.rmtree(path, ignore_errors=True)
        _unlock(lock)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Provide a scratch directory in `folder`, which is removed in the end; see `Scratch`."""
    held = Scratch(folder)
    try:
        yield held.path
    finally:
        held.close()


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Provide a path for a file that replaces `target` when the block succeeds.

    Raises:
        InputError: If `target` is a symbolic link or a directory.
    """
    if target.is_symlink() or target.is_dir():
        kind = "a symbolic link" if target.is_symlink() else "a directory"
        raise InputError(f"{target} is {kind}, where a file is to be written; give another path")
    with scratch(target.parent) as made:
        new = made / target.name
        yield new
        flush(new)
        os.replace(new, target)
        flush(target.parent)


def check_replaceable(target: Path, foreign: Callable[[Path], Iterable[Path]]) -> None:
    """Refuse a directory that `replaced_directory` would not replace; see there."""
    if target.is_symlink() or target.is_file():
        kind = "a symbolic link" if target.is_symlink() else "a file"
        raise InputError(f"{target} is {kind}, where a directory is to be written; give another path")
    if target.exists():
        if target == Path.cwd() or target in Path.cwd().parents or os.path.ismount(target):
            raise InputError(f"{target} is in use as a current directory or a mount; give a directory below it")
        if rest := list(foreign(target)):
            raise InputError(f"{target} holds {rest[0]}, which unpact-lens did not write; give another directory")


@contextmanager
def replaced_directory(target: Path, foreign: Callable[[Path], Iterable[Path]]) -> Iterator[Path]:
    """Provide an empty directory that replaces `target` when the block succeeds.

    On Linux and macOS the two directories are exchanged in one step, on file systems that can do so. Elsewhere the old
    one is moved away first; the next writer moves it back if this one is killed in between.

    Args:
        target: Directory. It need not exist.
        foreign: Function that returns the files of an existing directory that this library did not write.

    Raises:
        InputError: If `target` is a symbolic link or a file, the current directory or one above it, the root of a file
            system, or holds files that this library did not write.
    """
    target = Path(os.path.abspath(target))
    check_replaceable(target, foreign)
    with scratch(target.parent) as made:
        new = made / target.name
        new.mkdir()
        yield new
        flush_all(new)
        _put_directory(new, target, made / REPLACED)
        flush(target.parent)


def _put_directory(new: Path, target: Path, away: Path) -> None:
    """Move a directory to its place; what is there goes to `away`, which is removed with the scratch directory."""
    if target.exists() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        os.replace(new, target)
    elif not _exchange(new, target):
        away.mkdir()
        os.replace(target, away / target.name)
        os.replace(new, target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; return whether the system could."""
    names = (os.fsencode(one), os.fsencode(other))
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return int(library.renamex_np(*names, ctypes.c_uint(2))) == 0  # RENAME_SWAP
        here = ctypes.c_int(-100)  # AT_FDCWD
        exchange = ctypes.c_uint(2)  # RENAME_EXCHANGE
        return int(library.renameat2(here, names[0], here, names[1], exchange)) == 0
    except (OSError, AttributeError, TypeError):
        return False


def commit(folder: Path, made: Path, mark: str, record: Callable[[dict[str, str]], str], old: Iterable[str]) -> None:
    """Move made files into a folder, then replace the record that names them, then remove those of the old record.

    Args:
        folder: Directory that holds the record and the files.
        made: Scratch directory in `folder` with the files and directories.
        mark: Name of the record.
        record: Function from the place of each made file or directory, by its name in `made`, to the text of the
            record. A name that is taken by other content gets a number.
        old: Relative paths of the files that the present record names.
    """
    flush_all(made)
    with locked(folder):
        places = {path.name: _free_or_equal(folder, path) for path in sorted(made.iterdir())}
        moved = {made / name: place for name, place in places.items() if not os.path.lexists(folder / place)}
        stale = [name for name in old if name.split("/")[0] not in places.values()]
        new = made / f"{mark}.new"
        new.write_text(record(places), encoding="utf-8")
        journal = made / JOURNAL
        files = [name for path, place in moved.items() for name in _files(path, place)]
        journal.write_text(json.dumps({"mark": mark, "files": [*files, *stale]}), encoding="utf-8")
        for path in (new, journal, made):
            flush(path)
        for path, place in moved.items():
            os.replace(path, folder / place)
        flush(folder)
        os.replace(new, folder / mark)
        flush(folder)
        remove_named(folder, stale)
        journal.unlink()


def _files(path: Path, place: str) -> list[str]:
    """Return the relative paths that a file, or each file of a directory, will have at its place."""
    if path.is_file():
        return [place]
    return [f"{place}/{p.relative_to(path).as_posix()}" for p in sorted(path.rglob("*")) if p.is_file()]


def _free_or_equal(folder: Path, path: Path) -> str:
    """Return the first place for `path` that is free or holds equal content."""
    number, place = 1, path.name
    while True:
        there = folder / place
        if not os.path.lexists(there) or (not there.is_symlink() and contents(there) == contents(path)):
            return place
        number += 1
        place = f"{path.stem}-{number}{path.suffix}"


def remove_named(folder: Path, names: Iterable[str]) -> int:
    """Remove files by their relative paths, and the directories that are empty then; other files stay.

    Returns:
        Number of bytes removed.
    """
    freed, above = 0, set()
    for name in names:
        path = folder / name
        if not _inside(folder, path):
            continue
        above |= {p for p in path.parents if p != folder and folder in p.parents}
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
    for directory in sorted(above, key=lambda p: len(p.parts), reverse=True):
        with contextlib.suppress(OSError):  # It holds something else.
            directory.rmdir()
    return freed


def _inside(folder: Path, path: Path) -> bool:
    """Return whether a path lies below a folder, without `..` and without symbolic links on the way."""
    if ".." in path.parts or folder not in path.parents:
        return False
    return not any(p.is_symlink() for p in (path, *path.parents) if folder in p.parents)


def contents(path: Path) -> dict[str, str]:
    """Compute the SHA-256 of a file (by the name `""`), or of each file below a directory by its relative path."""
    if path.is_file():
        return {"": sha256(path)}
    return {p.relative_to(path).as_posix(): sha256(p) for p in sorted(path.rglob("*")) if p.is_file()}


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    hasher, buffer = hashlib.sha256(), bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:size])
    return hasher.hexdigest()


def flush(path: Path) -> None:
    """Write a file, or the list of names of a directory, from the system's memory to the disk."""
    with contextlib.suppress(OSError):  # Some systems cannot flush directories, or files that are open for reading.
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def flush_all(folder: Path) -> None:
    """Write a directory and all that is below it to the disk."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a directory; wait for it if another writer holds it. Some file systems have no locks."""
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        _unlock(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Lock a directory and return its handle; None if it is locked by another writer, gone, or cannot be locked."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what dead writers left in a directory: scratch directories, and files that no record came to name."""
    with contextlib.suppress(OSError):
        for left in sorted(folder.glob(f"{SCRATCH}*")):
            if left.is_symlink() or not left.is_dir():
                continue
            lock = _lock(left, wait=False)
            if lock is None:  # Its writer lives.
                continue
            try:
                _undo(folder, left)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                _unlock(lock)


def _undo(folder: Path, left: Path) -> None:
    """Move back a directory that was moved away, and remove files of a commit that the record does not name."""
    for old in sorted((left / REPLACED).glob("*")):
        if not os.path.lexists(folder / old.name):
            os.replace(old, folder / old.name)
    try:
        journal = json.loads((left / JOURNAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    with locked(folder):
        mark = folder / str(journal["mark"])
        text = mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else ""
        tops = {name: name.split("/")[0] for name in journal["files"]}
        # A damaged record, too, keeps every file whose name it holds.
        remove_named(folder, [n for n, top in tops.items() if f'"{top}"' not in text and f'"{top}/' not in text])


def steady(mark: Path, read: Callable[[], T], *, checked: bool) -> T:
    """Read something beside a writer: what is returned is the old content or the new one, and never a mixture.

    Args:
        mark: File that changes with every write.
        read: Function that reads everything. It raises an error where files are missing or do not belong together.
        checked: Whether `read` checks that the files belong together. Otherwise it is repeated if `mark` has changed.

    Raises:
        InputError: If `read` fails although nobody writes.
    """
    for _ in range(TRIES):
        stamp = _stamp(mark)
        try:
            found = read()
        except (InputError, OSError):
            if _stamp(mark) == stamp:
                raise
        else:
            if checked or _stamp(mark) == stamp:
                return found
    raise InputError(f"{mark.parent} is written again and again while it is read; try again when its writer has ended")


def _stamp(mark: Path) -> tuple[int, ...]:
    try:
        status = mark.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
