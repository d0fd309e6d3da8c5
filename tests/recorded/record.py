"""Record the outputs of every call of `calls.py`.

`python -m tests.recorded.record` writes the fixture anew; names after it record these calls only.

The fixture was first recorded with version 0.1.0, commit 9fe8750, before the layout of the package was redrawn: seed 0,
one thread, fp32, on a CPU with torch 2.13. The redrawn code of commit 4b2e5aa gave equal bits, but for the last bit of
one KS value. Then the embedded models were trained again without an output bias, and that commit recorded the fixture
on the new weights. Numbers must not change since. Record a call anew only where its change is meant, and say why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.recorded.calls import CALLS, run

FOLDER = Path(__file__).parent
TENSORS, TEXTS = FOLDER / "outputs.safetensors", FOLDER / "outputs.json"

MOST_VALUES = 400
"""Tensors with more values are recorded by their sums and this many of their values."""
MOST_ITEMS = 12
"""Sequences of results that are longer are recorded by this many of their items."""
MOST_TEXTS = 60
"""Sequences of texts that are longer are recorded by this many of them and a hash of all."""

SKIPPED = frozenset(
    [
        "settings",
        "versions",
        "seconds",
        "threads",
        "hash_before",
        "notes",
        "note",
        "config",
        "environment",
        "reasons",
        "open",
        "why",
        "about",
        "description",
        "line",
        "formula",
        "source",
        "path",
        "defaults",
        "figure",
        "view",
        "stopped",
        "excluded",
        "judge",
        "meta",
        "url",
        "directory",
        "verdict_reason",
    ]
)
"""Fields that hold prose, times, paths or versions."""


def flatten(value: Any, at: str = "") -> dict[str, Any]:
    """Flatten a result into tensors, texts and lists of texts, by path.

    Args:
        value: dataclasses, sequences, mappings, tensors, arrays, tables, models, numbers, texts, nested at will.
        at: path of the value.

    Returns:
        Path to a tensor (float64, float32, or bool), a text, a bool, None, or a list of texts.
    """
    if value is None or isinstance(value, (bool, str, np.bool_)):
        return {at: bool(value) if isinstance(value, np.bool_) else value}
    if isinstance(value, (int, float, np.number)):
        return {at: torch.tensor(float(value), dtype=torch.float64)}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return flatten(torch.from_numpy(np.ascontiguousarray(value)), at)
    if isinstance(value, Tensor):
        return _tensor(value.detach().cpu(), at)
    if isinstance(value, pd.DataFrame):
        return _table(value, at)
    if isinstance(value, pd.Series):
        return flatten(value.tolist(), at)
    if isinstance(value, nn.Module):
        return _weights(value, at)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, at)
    if isinstance(value, Mapping):
        return _fields({str(k): v for k, v in value.items()}, at)
    if isinstance(value, (Sequence, np.ndarray)):
        return _sequence(list(value), at)
    raise TypeError(f"{at}: a {type(value).__name__} cannot be recorded")


def _fields(fields: Mapping[str, Any], at: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        hidden = name in SKIPPED or name.startswith("_") or (callable(value) and not isinstance(value, nn.Module))
        named_model = name == "model" and isinstance(value, str) and len(value) > 40  # a hash of its weights
        if hidden or named_model or isinstance(value, Path):
            continue
        found |= flatten(value, f"{at}/{name}".lstrip("/"))
    return found


def _sequence(items: list[Any], at: str) -> dict[str, Any]:
    if items and all(isinstance(i, (bool, np.bool_)) for i in items):
        return flatten(torch.tensor([bool(i) for i in items]), at)
    if items and all(isinstance(i, (int, float, np.number)) for i in items):
        return flatten(torch.tensor([float(i) for i in items], dtype=torch.float64), at)
    if items and all(isinstance(i, Tensor) and i.ndim == 0 for i in items):
        return flatten(torch.stack(list(items)), at)
    if all(isinstance(i, str) for i in items):
        if len(items) <= MOST_TEXTS:
            return {at: list(items)}
        whole = hashlib.sha256("\0".join(items).encode()).hexdigest()
        return {at: [items[i] for i in _spread(len(items), MOST_TEXTS)], f"{at}#sha256": whole, **_count(items, at)}
    kept = range(len(items)) if len(items) <= MOST_ITEMS else _spread(len(items), MOST_ITEMS)
    found = _count(items, at)
    for i in kept:
        found |= flatten(items[i], f"{at}/{i}")
    return found


def _count(items: Sequence[Any], at: str) -> dict[str, Any]:
    return {f"{at}#length": torch.tensor(float(len(items)), dtype=torch.float64)}


def _table(frame: pd.DataFrame, at: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if frame.index.name is not None:
        found |= flatten([str(i) for i in frame.index], f"{at}/{frame.index.name}".lstrip("/"))
    for position, name in enumerate(frame.columns):
        if str(name) in SKIPPED:
            continue
        column = frame.iloc[:, position]
        values = column.tolist()
        if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
            values = [math.nan if pd.isna(v) else float(v) for v in values]
        elif not pd.api.types.is_bool_dtype(column.dtype):
            values = [v if isinstance(v, (list, tuple, float, int)) else "" if pd.isna(v) else str(v) for v in values]
        found |= flatten(values, f"{at}/{name}".lstrip("/"))
    return found


def _tensor(tensor: Tensor, at: str) -> dict[str, Any]:
    if tensor.dtype != torch.bool and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float64)
    if tensor.numel() <= MOST_VALUES:
        return {at: tensor.contiguous().clone()}
    flat = tensor.reshape(-1)
    values = flat[torch.tensor(_spread(len(flat), MOST_VALUES))].clone()
    return {at: values, f"{at}#shape": ",".join(map(str, tensor.shape)), f"{at}#sums": _sums(tensor)}


def _weights(model: nn.Module, at: str) -> dict[str, Any]:
    return {f"{at}/{name}#sums": _sums(weight) for name, weight in sorted(model.named_parameters())}


def _sums(tensor: Tensor) -> Tensor:
    """Sum, norm and sum of absolute values; the last gives the scale of what rounding may change."""
    wide = tensor.detach().double()
    finite = wide[wide.isfinite()]
    return torch.stack([finite.sum(), finite.norm(), finite.abs().sum()])


def _spread(n: int, most: int) -> list[int]:
    return [i * n // most for i in range(most)]


def outputs(name: str) -> dict[str, Any]:
    """Run a call and flatten what it gives."""
    return flatten(run(name))


def read() -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Read the fixture: for each call its recorded values, and how long it took."""
    kept = json.loads(TEXTS.read_text(encoding="utf-8"))
    values: dict[str, dict[str, Any]] = {name: dict(texts) for name, texts in kept["texts"].items()}
    for key, tensor in load_file(TENSORS).items():
        name, _, path = key.partition("|")
        values[name][path] = tensor
    return values, kept["seconds"]


def write(values: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float]) -> None:
    """Write the fixture."""
    tensors = {f"{n}|{p}": v for n, found in values.items() for p, v in found.items() if isinstance(v, Tensor)}
    texts = {n: {p: v for p, v in found.items() if not isinstance(v, Tensor)} for n, found in values.items()}
    save_file(dict(sorted(tensors.items())), TENSORS)
    body = {"seconds": {n: round(s, 1) for n, s in seconds.items()}, "texts": texts}
    TEXTS.write_text(json.dumps(body, indent=0, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def main(names: Sequence[str]) -> None:
    """Record the named calls, or all."""
    values, seconds = read() if names and TEXTS.exists() else ({}, {})
    for name in names or CALLS:
        start = time.perf_counter()
        values[name] = outputs(name)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {len(values[name])} values in {seconds[name]:.1f} s", flush=True)
    write(values, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
