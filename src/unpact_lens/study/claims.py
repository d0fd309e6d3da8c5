"""Let one process at a time compute a part, on one machine or on several that share a file system.

A claim is a directory, because `mkdir` is atomic on network file systems, where locks often are not. Its owner touches
it every few seconds. The claim of a process that died is taken over: at once on the same machine, elsewhere when the
claim has not been touched for `STALE` seconds. Two owners at once would do no harm but work: both write the same part.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT = 5.0
"""Time between two touches of a claim, in seconds."""

STALE = 60.0
"""Time without a touch after which the owner of a claim on another machine counts as dead, in seconds."""

WAIT = 0.2
"""Time between two looks at a claim that another process holds, in seconds."""


@contextmanager
def claim(folder: Path, name: str, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the claim on a part while the block runs; wait for it if another process holds it.

    Args:
        folder: Directory of the claims.
        name: Name of the part.
        say: Function that is called once if the claim is held by another process.
    """
    place = folder / f"{name.replace('/', '+')}.claim"
    folder.mkdir(parents=True, exist_ok=True)
    waited = False
    while not _taken(place):
        if not _dead(place) or not _removed(place):
            if not waited:
                say(f"waiting for {name}, which another process computes")
                waited = True
            time.sleep(WAIT)
    over = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(place, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        _removed(place)


def held(folder: Path, name: str) -> bool:
    """Return whether a living process holds the claim on a part; see `claim` for the arguments."""
    place = folder / f"{name.replace('/', '+')}.claim"
    return place.is_dir() and not _dead(place)


def sweep(folder: Path) -> int:
    """Remove the claims of dead processes, and return their number."""
    return sum(_dead(place) and _removed(place) for place in folder.glob("*.claim"))


def _taken(place: Path) -> bool:
    """Make the claim, and return whether it is ours."""
    try:
        place.mkdir()
    except FileExistsError:
        return False
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    (place / "owner.json").write_text(json.dumps(owner))
    return True


def _keep_alive(place: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(place)


def _dead(place: Path) -> bool:
    """Return whether the owner of a claim has died, as far as can be told from here."""
    try:
        touched = place.stat().st_mtime
    except OSError:
        return False  # It was released a moment ago.
    try:
        owner = json.loads((place / "owner.json").read_text())
        if owner["host"] == socket.gethostname():
            return _started(int(owner["pid"])) != owner["started"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # It is being made this moment, or its writer died while making it.
    return _now(place.parent) - touched > STALE


def _now(folder: Path) -> float:
    """Return the time by the clock of the file system, which may differ from ours."""
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return now


def _started(pid: int) -> float | None:
    """Return when a process started, or None if there is none with this id (or it is a zombie)."""
    import psutil  # type: ignore[import-untyped]

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def _removed(place: Path) -> bool:
    """Remove a claim, and return whether it was us who did: the rename succeeds for one process only."""
    gone = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        place.rename(gone)
    except OSError:
        return False
    with suppress(OSError):
        (gone / "owner.json").unlink(missing_ok=True)
        gone.rmdir()
    return True
