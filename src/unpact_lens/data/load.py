"""`load_benchmark`: every data set by name. A data set is one file beside this one, and one line in `BENCHMARKS`."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

from unpact_lens.data.qa import Benchmark
from unpact_lens.errors import InputError, nearest
from unpact_lens.registry import Registry

BENCHMARKS: Registry[str] = Registry("benchmark")
"""For each name, `"module:function"` in `unpact_lens.data`, imported when asked for."""

BENCHMARKS.add("builtin", "builtin:load_builtin")
BENCHMARKS.add("facts", "facts:load_facts")


def load_benchmark(name: str, *, path: str | os.PathLike[str] | None = None, **options: Any) -> Benchmark:
    """Load what is to be forgotten and what is to be kept.

    Args:
        name: of `BENCHMARKS`: `"builtin"` (fictitious authors of the embedded world), `"facts"` (capitals and element
            symbols), ...
        path: a directory of local files in the data set's own schema, for those that come from a hub.
        **options: of that data set, e.g. `seed=`.

    Returns:
        The benchmark.

    Raises:
        InputError: for an unknown name or option (with the nearest known), a path that does not exist, or a path for a
            data set that has no files.
    """
    module, function = BENCHMARKS[name].split(":")
    loader = getattr(importlib.import_module(f"unpact_lens.data.{module}"), function)
    accepted = set(inspect.signature(loader).parameters)
    if path is not None:
        if "path" not in accepted:
            raise InputError(f"benchmark {name!r} comes with its package and has no files; drop path={str(path)!r}")
        if not Path(path).exists():
            raise InputError(f"path={str(path)!r} of benchmark {name!r} does not exist; give a directory of its files")
        options["path"] = path
    for option in options:
        if option not in accepted:
            raise InputError(f"benchmark {name!r} has no option {option!r}; {nearest(option, accepted)}")
    return loader(**options)
