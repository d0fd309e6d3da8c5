"""Read the command line of an experiment's script."""

from __future__ import annotations

import sys

from unpact_lens.errors import InputError

JOBS = "--jobs"
"""Option of the scripts that run a study: number of processes."""


def arguments(usage: str | None) -> list[str]:
    """Return the arguments of the script without `--jobs N`, or print its usage and exit if `--help` is among them.

    Args:
        usage: Docstring of the script.
    """
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print((usage or "").strip())
        sys.exit(0)
    if JOBS in given and usage is not None and f"{JOBS} N" in usage:
        at = given.index(JOBS)
        given = [*given[:at], *given[at + 2 :]]
    return given


def jobs() -> int:
    """Return the number of processes that `--jobs N` asks for; 1 without it.

    Raises:
        InputError: If N is not a positive whole number.
    """
    if JOBS not in sys.argv:
        return 1
    given = [*sys.argv[sys.argv.index(JOBS) + 1 :], ""][0]
    if not given.isdigit() or int(given) < 1:
        raise InputError(f"{JOBS} {given!r}; give a positive whole number of processes, e.g. {JOBS} 4")
    return int(given)
