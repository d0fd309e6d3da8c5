"""Estimate the time and the memory of a study's cells from measured costs.

The costs that finished cells of the same directory recorded come first: those of the same method, else of all. Without
any, the time of a shipped model is that of `MEASURED`, and the memory follows from the number of weights. What neither
covers is undefined: run one cell, then ask again.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from unpact_lens.errors import InputError
from unpact_lens.results import read_json
from unpact_lens.study.config import MethodConfig, StudyConfig
from unpact_lens.study.folder import CELLS, COST

MEASURED = {"builtin": 30.0, "smollm2": 390.0}
"""Seconds of one cell on one core with the shipped settings. `builtin`: mean of two cells of the demo, both cores busy.
`smollm2`: middle of the 4 to 9 minutes of the 18 cells of `experiments/recovery`."""

BASE = 1.0e9
"""Main memory of a process before any model is loaded: Python, torch, transformers. Bytes, rounded up."""

COPIES_TRAINED = 7
"""Copies of the weights at the peak of a cell that trains all of them: original, unlearned and last good weights,
gradient, two moments of AdamW, and one more while a checkpoint is written."""

COPIES_ADAPTED = 2
"""The same where low-rank adapters are trained: original and unlearned weights."""


@dataclass(frozen=True)
class Cost:
    """Hold what a cell needs.

    Attributes:
        seconds: Wall time. None if nothing was measured.
        memory: Main memory in bytes. None if it cannot be told.
        source: Where both come from.
    """

    seconds: float | None
    memory: float | None
    source: str


def recorded_costs(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return what the finished cells of a study cost, by method: `seconds`, `memory`, `gpu_memory`."""
    found: dict[str, list[dict[str, float]]] = {}
    for file in sorted(folder.glob(f"{CELLS}/*/{COST}")):
        try:
            record = read_json(file)
        except InputError:
            continue
        if isinstance(record, dict) and isinstance(record.get("seconds"), (int, float)):
            numbers = {k: float(v) for k, v in record.items() if isinstance(v, (int, float))}
            found.setdefault(file.parent.name.rsplit("-seed", 1)[0], []).append(numbers)
    return found


def cell_cost(config: StudyConfig, method: MethodConfig, folder: Path) -> Cost:
    """Estimate what a cell costs.

    Args:
        config: Configuration of the study.
        method: Method of the cell.
        folder: Directory of the study; it need not exist.
    """
    recorded = recorded_costs(folder)
    every = [cost for costs in recorded.values() for cost in costs]
    mine = recorded.get(method.name, every)
    memory = memory_estimate(config, folder)
    if mine:
        seconds = sum(cost["seconds"] for cost in mine) / len(mine)
        which = "this method" if method.name in recorded else "other methods"
        return Cost(seconds, memory, f"measured on {len(mine)} cells of {which} in this directory")
    if config.model in MEASURED:
        return Cost(MEASURED[config.model], memory, f"measured on {config.model}, one core, with the shipped settings")
    return Cost(None, memory, "no measured cost: run one cell first")


def memory_estimate(config: StudyConfig, folder: Path) -> float | None:
    """Estimate the main memory of a cell's process, in bytes: measured plus a tenth, else from the weights.

    On a GPU the weights live in its memory, and the estimate holds for that.

    Args:
        config: Configuration of the study.
        folder: Directory of the study.
    """
    measured = [cost.get("memory", 0.0) for costs in recorded_costs(folder).values() for cost in costs]
    if any(measured):
        return 1.1 * max(measured)
    sizes = [weights_bytes(spec, config.load.dtype) for spec in (config.model, config.control) if spec]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    whole = any("rank" not in m.settings and not m.name.startswith("lora_") for m in config.methods)
    return BASE + known[0] * (COPIES_TRAINED if whole else COPIES_ADAPTED) + sum(known[1:])


def weights_bytes(spec: str, dtype: str | None = None) -> float | None:
    """Compute the size of a model's weights in memory, from the headers of its files.

    Args:
        spec: Model, as `load_model` takes it.
        dtype: Dtype in which it is loaded. If None, fp32.

    Returns:
        Size in bytes. None if the files are not on this machine.
    """
    from unpact_lens.models import builtin, pip_models

    folder = Path(spec).expanduser()
    if spec in builtin.MODELS:
        folder = builtin.builtin_directory(spec)
    elif spec in pip_models.PACKAGED:
        folder = pip_models.cache_dir() / pip_models.PACKAGED[spec].directory
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    return float(sum(_numbers(file) for file in files) * (4 if dtype in (None, "float32") else 2))


def _numbers(file: Path) -> int:
    """Return how many numbers a safetensors file holds, from its header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
