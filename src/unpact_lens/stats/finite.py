"""Refuse numbers of another shape than a test needs, and numbers that are NaN or infinite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unpact_lens.errors import InputError


def require_finite(numbers: NDArray[np.float64], name: str, shape: str) -> None:
    """Refuse an array that has another number of dimensions, or holds NaN or infinity.

    Args:
        numbers: Array.
        name: Name of the argument, for the message.
        shape: Names of its dimensions, e.g. `"subject, comparison"`.

    Raises:
        InputError: If it does. The message names the shape found and the shape wanted.
    """
    found = np.shape(numbers)
    if len(found) != len(shape.split(",")):
        raise InputError(f"{name} of shape {found}; give an array [{shape}]")
    if not np.isfinite(numbers).all():
        raise InputError(f"{name} of shape {found} with NaN or infinity; give finite numbers, [{shape}]")
