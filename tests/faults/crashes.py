"""Kill a child process just before its n-th change of the file system, by `SIGKILL`.

The child is a fork, so it needs no imports. An audit hook of Python sees each change before it happens.
"""

import os
import signal
import sys

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "ctypes.dlsym", "os.link"}
"""Audit events that change the file system. `renameat2`, which Python does not know, is looked up by `dlsym`."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def is_change(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        return isinstance(path, (str, os.PathLike)) and bool((flags or 0) & WRITING or set(mode or "") & set("wax+"))
    return event in CHANGES


def run(work, at=None):
    """Run `work` in a child; return the number of its changes, or None if it was killed at change number `at`."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            seen = [0]

            def hook(event, arguments):
                if is_change(event, arguments):
                    seen[0] += 1
                    if seen[0] == at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            work()
            os.write(writing, f"{seen[0]}".encode())
        except BaseException as error:  # the child must never return into pytest
            os.write(writing, f"error: {error!r}".encode())
        os._exit(0)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    if status == -signal.SIGKILL:
        return None
    assert said.isdigit(), said
    return int(said)


def points(work, setup, most):
    """Return the numbers of up to `most` changes at which `work` can be killed, spread over the whole of it."""
    setup()
    total = run(work)
    assert total > 0
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + round(i * (total - 1) / (most - 1)) for i in range(most)})
