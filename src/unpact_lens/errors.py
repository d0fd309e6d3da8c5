"""Define the error for invalid user input, and suggest the nearest known names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Signal invalid user input; the message names the value and what to pass instead.

    The command line shows the message without a traceback and exits with status 2.
    """


class NoEffectError(InputError):
    """Signal a probe or an intervention that would change nothing of the model that it was applied to.

    A run of several probes leaves such a probe out, with the message as the reason.
    """


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return a clause for an error message that suggests the known names closest to `name`.

    Args:
        name: Name that the user gave.
        known: Accepted names.
        n: Largest number of suggestions.

    Returns:
        A clause such as `did you mean 'npo_gdr' or 'npo'?`, or the whole list if no name is close.

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
