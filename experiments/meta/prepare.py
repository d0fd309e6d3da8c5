"""Build the whole pool with many processes, each model once."""

from __future__ import annotations

from concurrent.futures import Executor

import torch

from experiments.meta import pool
from unpact_lens.errors import InputError


def prepare(workers: Executor, names: tuple[str, ...]) -> None:
    """Build models, first those that others are made of: two processes never build the same one.

    Args:
        workers: Processes.
        names: Models to build, of `pool.names()`.
    """
    seeds = sorted({s for n in names for s in (pool.truth(n).seed, pool.partner(pool.truth(n).seed))})
    for stage in ([(base, seed) for seed in seeds for base in ("knowing", "ignorant")], [("build", n) for n in names]):
        for failure in workers.map(_made, *zip(*stage, strict=True)):
            if failure:
                print(failure, flush=True)


def _made(make: str, of: int | str) -> str:
    """Make a model by a function of `pool`, and return why it could not be made, or nothing."""
    torch.set_num_threads(1)  # fastest for a tiny model
    try:
        getattr(pool, make)(of)
    except InputError as error:
        return str(error)
    return ""
