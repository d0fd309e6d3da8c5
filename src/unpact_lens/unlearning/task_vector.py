"""Unlearning by arithmetic on weights: the task vector and its coefficient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def task_vector(before: Any, after: Any) -> dict[str, Tensor]:
    r"""$\theta_{ft} - \theta_0$ of every parameter. Buffers (masks, rotary tables) are no part of it.

    Args:
        before: the model that fine-tuning started from.
        after: the same after fine-tuning.
    """
    start = dict(before.named_parameters())
    return {n: p.detach() - start[n].detach() for n, p in after.named_parameters()}


def set_negated(model: Any, before: Any, vector: Weights, coefficient: float) -> None:
    r"""Give `model` the weights $\theta_0 - a\,(\theta_{ft} - \theta_0)$, in place.

    Args:
        model: of the same architecture as `before`.
        before: holds $\theta_0$.
        vector: of `task_vector`.
        coefficient: a; 0 gives the model before exactly.
    """
    start = dict(before.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(start[name] if coefficient == 0 else start[name] - coefficient * vector[name])


def smallest_coefficient(
    reaches: Callable[[float], bool], *, start: float = 1.0, largest: float = 256.0, tolerance: float = 0.05
) -> float | None:
    """The smallest coefficient that reaches the level, as far as doubling and bisection find it.

    Algorithm: halve or double from `start` until one coefficient fails and its double succeeds; bisect in between, on
    a logarithmic scale, until both differ by less than `tolerance`.

    Args:
        reaches: whether a coefficient reaches the level.
        start: the first to try.
        largest: the last to try.
        tolerance: relative width at which bisection ends.

    Returns:
        The smallest that was seen to succeed; None if `largest` does not.

    >>> round(smallest_coefficient(lambda a: a >= 5.3, tolerance=0.01), 1)
    5.3
    """
    low, high = 0.0, start
    if reaches(high):
        while high > start / 1024 and reaches(high / 2):
            high /= 2
        low = high / 2
    else:
        while True:
            low, high = high, min(2 * high, largest)
            if low >= largest:
                return None
            if reaches(high):
                break
    while high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
