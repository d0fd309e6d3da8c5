"""Load a benchmark by name."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from unpact_lens.data.benchmark import BENCHMARKS, Benchmark
from unpact_lens.errors import InputError, nearest


def load_benchmark(name: str, *, path: str | os.PathLike[str] | None = None, **options: Any) -> Benchmark:
    """Load the items to forget and the items to keep.

    Args:
        name: Name of a benchmark: `"builtin"` (fictitious authors that the embedded model knows), `"facts"` (capitals
            and element symbols), `"tofu"`, `"muse-news"`, `"muse-books"`, `"wmdp-bio"`, ..., or `"pairs"` (a table of
            your own).
        path: Directory of local files in the data set's own schema. If None, the files come from the hub.
        **options: Options of that data set, e.g. `seed=`.

    Returns:
        The benchmark.

    Raises:
        InputError: If the name or an option is unknown (the message offers the nearest), the path does not exist, or a
            path is given for a data set without files.

    >>> load_benchmark("builtin")
    Benchmark('builtin': 96 forget, 163 near, 221 far, 28 general, 60 unknown)
    """
    load = BENCHMARKS[name]
    accepted = set(inspect.signature(load).parameters)
    if path is not None:
        if "path" not in accepted:
            raise InputError(f"benchmark {name!r} comes with its package and has no files; drop path={str(path)!r}")
        if not Path(path).exists():
            raise InputError(f"path={str(path)!r} of benchmark {name!r} does not exist; give a directory of its files")
        options["path"] = path
    for option in options:
        if option not in accepted:
            raise InputError(f"benchmark {name!r} has no option {option!r}; {nearest(option, accepted)}")
    return load(**options)
