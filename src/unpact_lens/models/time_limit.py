"""End a computation in Python code that takes too long, such as a chat template that loops."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TookTooLong(Exception):
    """Signal that a computation was ended because it took too long."""


class TraceFunction:
    """End the computation at the first line of Python code after the deadline.

    Args:
        end: Time at which it ends, by `time.monotonic`.
        seconds: Largest duration, seconds, for the message.
    """

    def __init__(self, end: float, seconds: float) -> None:
        self.end, self.seconds = end, seconds

    def __call__(self, frame: FrameType, event: str, argument: object) -> TraceFunction:
        """Check the time; Python calls this at each line."""
        if time.monotonic() > self.end:
            raise TookTooLong(f"takes more than {self.seconds:g} s")
        return self


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End the block with `TookTooLong` if it runs for too long; only this thread is watched.

    Lines of Python code are watched, so one call of compiled code is not ended. A debugger's own trace is left as it
    is, and nothing is watched then.

    Args:
        seconds: Largest duration, seconds.
    """
    if sys.gettrace() is not None:
        yield
        return
    sys.settrace(TraceFunction(time.monotonic() + seconds, seconds))
    try:
        yield
    finally:
        sys.settrace(None)
