"""End a command on SIGINT, SIGTERM and SIGHUP, and say what is kept and how to go on."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from unpact_lens.console import one_line
from unpact_lens.errors import InputError
from unpact_lens.results import read_json

CAUGHT = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a command in order."""

WORDS = {signal.SIGINT: "interrupted"}


class Stopped(KeyboardInterrupt):
    """Signal that the process was asked to end.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


class Interrupted(Exception):
    """Signal that a command ended early; the message says what is kept.

    Attributes:
        status: Exit status, 128 + the number of the signal.
    """

    def __init__(self, number: int, kept: str) -> None:
        super().__init__(f"{WORDS.get(signal.Signals(number), 'terminated')}; {kept}")
        self.status = 128 + number


@contextmanager
def signals() -> Iterator[None]:
    """Raise `Stopped` on a signal within the block. Signals that the caller ignores stay ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in CAUGHT}
    try:
        for number, handler in found.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(kept: Callable[[], str] | str = "nothing was kept") -> Iterator[None]:
    """Turn a signal within the block into an error that says what is kept.

    Args:
        kept: The sentence, or a function that finds it when the signal comes.

    Raises:
        Interrupted: On a signal.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        number = stop.signal if isinstance(stop, Stopped) else int(signal.SIGINT)
        raise Interrupted(number, kept if isinstance(kept, str) else kept()) from None


def command() -> str:
    """Return the command of this process, as the user may type it again."""
    return one_line(shlex.join(["unpact", *sys.argv[1:]]))


def go_on() -> str:
    """Return the clause that says how to go on."""
    return f"go on with: {command()}"


def kept_checkpoint(folder: Path | None, every: int, unit: str = "steps") -> str:
    """Describe what a checkpoint directory keeps of an interrupted run.

    Args:
        folder: The directory. None if the run had none.
        every: Number of steps between two states.
        unit: What is counted.
    """
    if folder is None:
        return "nothing was kept; with --checkpoint DIR the same command can go on where it stopped"
    try:
        note = read_json(folder / "state.json") if (folder / "state.json").is_file() else None
    except InputError:
        note = None
    if not isinstance(note, dict) or not isinstance(note.get("step"), int):
        return f"no state is in {folder} yet (one is written every {every} {unit}); start again with: {command()}"
    return f"the state after step {note['step']} is kept in {folder}; {go_on()}"
