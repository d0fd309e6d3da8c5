"""Let one thread at a time run a model, because the hooks of one call would act in the other's forward pass.

Every forward pass and every copy of this library holds the model's lock. Calls of two threads on one model take turns
and give the results of calls one after the other. A model that the user calls directly is not locked.

Copies of models take turns as well, whatever the models: TransformerLens takes `__deepcopy__` off a class while it
copies an object of it, so that another thread's copy would follow references to the whole model.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

M = TypeVar("M")

_LOCKS: weakref.WeakKeyDictionary[object, threading.RLock] = weakref.WeakKeyDictionary()
_GUARD = threading.Lock()

COPYING = threading.RLock()
"""Held while modules are copied, and while TransformerLens builds a bridge, which copies blocks."""


@contextmanager
def exclusive(model: object) -> Iterator[None]:
    """Hold the lock of a model while the block runs; wait while another thread holds it.

    The thread that holds the lock may take it again.

    Args:
        model: Hooked model, or an ensemble. Its members have locks of their own.
    """
    with _GUARD:
        lock = _LOCKS.get(model)
        if lock is None:
            lock = _LOCKS[model] = threading.RLock()
    with lock:
        yield


def deep_copy(model: M, memo: dict[int, object] | None = None) -> M:
    """Return `copy.deepcopy(model, memo)`, made while no other thread copies a model."""
    with COPYING:
        return copy.deepcopy(model, memo)
