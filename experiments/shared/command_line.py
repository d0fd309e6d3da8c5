"""Read the command line of an experiment's script."""

from __future__ import annotations

import sys


def arguments(usage: str | None) -> list[str]:
    """Return the arguments of the script, or print its usage and exit if `--help` is among them.

    Args:
        usage: Docstring of the script.
    """
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print((usage or "").strip())
        sys.exit(0)
    return given
