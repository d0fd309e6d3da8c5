"""What goes wrong because of what the user gave us, said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input cannot be worked with; the message names the value and what would be accepted.

    The command line shows it without a traceback and exits with status 2.
    """


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The known names closest to `name`, for an error message.

    Args:
        name: what the user wrote.
        known: the names that would be accepted.
        n: how many to offer.

    Returns:
        A clause such as `did you mean 'npo_gdr' or 'npo'?`, or the whole list where nothing is close.

    >>> nearest("npo-gdr", ["ga", "npo_gdr", "rmu"])
    "did you mean 'npo_gdr'?"
    >>> nearest("zzz", ["ga", "rmu"])
    "known are 'ga', 'rmu'"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=n, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known are " + ", ".join(repr(k) for k in known)
