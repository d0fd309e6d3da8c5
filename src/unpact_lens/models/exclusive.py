"""Let one thread at a time run a model, because the hooks of one call would act in the other's forward pass.

Every forward pass and every copy of this library holds the model's lock. Calls of two threads on one model take turns
and give the results of calls one after the other. A model that the user calls directly is not locked.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

_LOCKS: weakref.WeakKeyDictionary[object, threading.RLock] = weakref.WeakKeyDictionary()
_GUARD = threading.Lock()


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
