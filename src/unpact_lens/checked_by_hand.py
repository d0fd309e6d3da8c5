"""Name the types of values that code checks itself, so that a wrong one gets an `InputError` and not a type error.

A type checker sees the real types. At run time they are `object`, so that run-time type checkers, as the tests use
them, leave these values to the code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Number = float
    Text = str
    Texts = tuple[str, ...]
    Whole = int
else:
    Number = Text = Texts = Whole = object
