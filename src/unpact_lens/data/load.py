"""Load a benchmark by name."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from unpact_lens.data.benchmark import BENCHMARKS, Benchmark
from unpact_lens.data.splits import SplitRequest
from unpact_lens.errors import InputError, nearest


def load_benchmark(
    name: str,
    *,
    path: str | os.PathLike[str] | None = None,
    retain_split: SplitRequest = "auto",
    split_seed: int = 0,
    **options: Any,
) -> Benchmark:
    """Load the items to forget and the items to keep, with the items to keep split by subject.

    A retain term trains on `.retain`, `tune` scores `.validation`, and destruction is measured on `.unseen`.

    Args:
        name: Name of a benchmark: `"builtin"` (fictitious authors that the embedded model knows), `"facts"` (capitals
            and element symbols), `"tofu"`, `"muse-news"`, `"muse-books"`, `"wmdp-bio"`, ..., or `"pairs"` (a table of
            your own).
        path: Directory of local files in the data set's own schema. If None, the files come from the hub.
        retain_split: Shares of the subjects: trained, validation, unseen. `"auto"` is 0.5, 0.15, 0.35. If there are too
            few subjects, it warns: a group then lacks its trained or validation part, or nothing is split. None gives
            all items to keep to the retain term, as version 0.1 did; destruction is then undefined.
        split_seed: Random seed of the split.
        **options: Options of that data set, e.g. `seed=`.

    Returns:
        The benchmark.

    Raises:
        InputError: If the name or an option is unknown (the message offers the nearest), the path does not exist, a
            path is given for a data set without files, or there are too few subjects for the shares given.

    >>> bench = load_benchmark("builtin")
    >>> bench
    Benchmark('builtin': 96 forget, 163 near, 221 far, 28 general, 60 unknown)
    >>> len(bench.retain), len(bench.validation), len(bench.unseen)
    (186, 60, 138)
    """
    load = BENCHMARKS[name]
    accepted = {*inspect.signature(load).parameters, "retain_split", "split_seed"}
    if path is not None:
        if "path" not in accepted:
            raise InputError(f"benchmark {name!r} comes with its package and has no files; drop path={str(path)!r}")
        if not Path(path).exists():
            raise InputError(f"path={str(path)!r} of benchmark {name!r} does not exist; give a directory of its files")
        options["path"] = path
    for option in options:
        if option not in accepted:
            raise InputError(f"benchmark {name!r} has no option {option!r}; {nearest(option, accepted)}")
    return load(**options).split(retain_split, split_seed)
