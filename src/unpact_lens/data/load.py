"""`load_benchmark`: every data set by name. A data set is one file beside this one, and one line in `BENCHMARKS`."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from pathlib import Path
from typing import Any

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.errors import InputError, nearest
from unpact_lens.registry import Registry

BENCHMARKS: Registry[str] = Registry("benchmark")
"""For each name, `"module:function"` in `unpact_lens.data`, imported when asked for; what stands after another colon
is the function's first argument."""

BENCHMARKS.add("builtin", "builtin:load_builtin")
BENCHMARKS.add("facts", "facts:load_facts")
BENCHMARKS.add("pairs", "custom:load_pairs")
BENCHMARKS.add("tofu", "tofu:tofu")
for _split in ("forget01", "forget05", "forget10"):
    BENCHMARKS.add(f"tofu-{_split}", f"tofu:tofu:{_split}")
for _corpus in ("news", "books"):
    BENCHMARKS.add(f"muse-{_corpus}", f"muse:muse:{_corpus}")
for _domain in ("bio", "cyber", "chem"):
    BENCHMARKS.add(f"wmdp-{_domain}", f"wmdp:wmdp:{_domain}")


def load_benchmark(name: str, *, path: str | os.PathLike[str] | None = None, **options: Any) -> Benchmark:
    """Load what is to be forgotten and what is to be kept.

    Args:
        name: of `BENCHMARKS`: `"builtin"` (fictitious authors of the embedded world), `"facts"` (capitals and element
            symbols), `"tofu"`, `"muse-news"`, `"muse-books"`, `"wmdp-bio"`, ..., `"pairs"` (a table of one's own).
        path: a directory of local files in the data set's own schema, for those that come from a hub.
        **options: of that data set, e.g. `seed=`.

    Returns:
        The benchmark.

    Raises:
        InputError: for an unknown name or option (with the nearest known), a path that does not exist, or a path for a
            data set that has no files.
    """
    module, function, *first = BENCHMARKS[name].split(":")
    loader = functools.partial(getattr(importlib.import_module(f"unpact_lens.data.{module}"), function), *first)
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
