"""Save and resume a run: one that is killed at any moment ends with the same weights after it is resumed.

A checkpoint is one safetensors file (weights, last good weights, moments of the optimiser) and one JSON file that names
it, with its SHA-256. Both are written atomically, the JSON last. The data order follows from the seed, so the step
gives the position in the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.json_files import json_text, read_record, sealed
from unpact_lens.manifest import MANIFEST, check_files_of, checked_files, foreign_files
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import digest
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.keep_best import KeepBest
from unpact_lens.unlearning.reference_cache import REFERENCES
from unpact_lens.writing import commit, remove_named, scratch, sha256, sweep

STATE = "state.json"
"""File that describes the state of a run; it is written last."""

FORMAT = 2
"""Version of `state.json`. Version 2 has a checksum."""


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return a hash of all that decides a run, to recognise the checkpoint of another run.

    Models count with weights, configuration and tokenizer, questions with all their fields.

    Raises:
        TypeError: If a value is of a type whose content is not known.
    """
    return hashlib.sha256(json.dumps(plain(facts), sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return a value as JSON that differs where the value differs.

    Raises:
        TypeError: If the content of a value is not known.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return digest({"": value.detach().cpu().contiguous()})
    if isinstance(value, CombinedModel):
        names: list[str] = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        rest = {name: getattr(value, name) for name in names if name != "members"}
        return [type(value).__name__, [model_fingerprint(m) for m in value.members], plain(rest)]
    if isinstance(value, HookedModel):
        return model_fingerprint(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}]
    if isinstance(value, Mapping):
        return {"mapping": [[plain(k), plain(v)] for k, v in value.items()]}
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(plain(v), sort_keys=True) for v in value)
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if isinstance(value, (os.PathLike, torch.dtype, torch.device)):
        return str(value)
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    raise TypeError(f"the content of a {type(value).__name__} is not known")


class Checkpoints:
    """Write and read the state of one run.

    Args:
        directory: Directory for this run alone; created if it does not exist.
        every: Number of steps between two checkpoints.
        key: `fingerprint` of the run.

    Raises:
        InputError: If `every` is below 1.
    """

    def __init__(self, directory: str | os.PathLike[str], every: int, key: str) -> None:
        self.directory, self.every, self.key = Path(directory), every, key
        if every < 1:
            raise InputError(f"checkpoint_every={every}; give a whole number of at least 1")

    def due(self, step: int, steps: int) -> bool:
        """Return whether a state is written after `step` of `steps`."""
        return step % self.every == 0 or step == steps

    def save(
        self,
        step: int,
        rows: Sequence[Mapping[str, float | int]],
        params: Mapping[str, Parameter],
        last_good: Sequence[Tensor],
        optimiser: torch.optim.Optimizer,
        keep: KeepBest | None = None,
    ) -> None:
        """Write the state after `step`, then remove the one before."""
        tensors: dict[str, Tensor] = {}
        for (name, p), good in zip(params.items(), last_good, strict=True):
            tensors[f"weight.{name}"], tensors[f"good.{name}"] = p.detach(), good
            for key, value in optimiser.state.get(p, {}).items():
                tensors[f"{key}.{name}"] = value
        best = None if keep is None else keep.note()
        tensors |= {} if keep is None else {f"best.{name}": value for name, value in keep.weights.items()}
        name = f"state-{step}.safetensors"
        with scratch(self.directory) as made:
            save_file({k: v.contiguous().clone() for k, v in tensors.items()}, made / name)
            checksum = sha256(made / name)

            def record(places: Mapping[str, str]) -> str:
                note = {"format": FORMAT, "key": self.key, "step": step, "rows": list(rows), "file": places[name]}
                note |= {} if best is None else {"best": best}
                return json_text(sealed({**note, "files": {places[name]: checksum}}))

            commit(self.directory, made, STATE, record, _written(self.directory))

    def load(
        self,
        params: Mapping[str, Parameter],
        last_good: Sequence[Tensor],
        optimiser: torch.optim.Optimizer,
        keep: KeepBest | None = None,
    ) -> tuple[int, list[dict[str, float | int]]]:
        """Restore a saved state in place.

        Returns:
            Number of steps after which it was taken, and the history up to then; `(0, [])` if there is none.

        Raises:
            InputError: If the directory holds the state of another run, or a damaged one.
        """
        note = check_state(self.directory)
        if note is None:
            return 0, []
        if note["key"] != self.key:
            raise InputError(
                f"{self.directory} holds a run with another model, data or settings; give an empty directory"
            )
        tensors = load_file(self.directory / note["file"])
        with torch.no_grad():
            for (name, p), good in zip(params.items(), last_good, strict=True):
                p.copy_(tensors[f"weight.{name}"])
                good.copy_(tensors[f"good.{name}"])
                state = {
                    k: tensors[f"{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{name}" in tensors
                }
                if state:
                    optimiser.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
        if keep is not None:
            best = {
                name: tensors[f"best.{name}"].to(p.device) for name, p in params.items() if f"best.{name}" in tensors
            }
            keep.resume(note.get("best"), best)
        return int(note["step"]), [dict(row) for row in note["rows"]]


def check_state(directory: Path) -> dict[str, Any] | None:
    """Check the saved state of a run and return its record; None if there is none.

    Raises:
        InputError: If a file is damaged or missing. The message names it.
    """
    file = directory / STATE
    if not os.path.lexists(file):
        return None
    remedy = f"delete {directory} to start the run anew"
    try:
        note = read_record(file, sealed_since=2)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    if (number := note.get("format", 1)) not in (1, FORMAT):
        raise InputError(f"{file} has format {number!r}, this version reads up to {FORMAT}; {remedy}")
    kinds = {"key": str, "step": int, "rows": list, "file": str}
    if any(not isinstance(note.get(name), kind) for name, kind in kinds.items()) or "/" in note["file"]:
        raise InputError(f"{file} is damaged: it does not describe a state; {remedy}")
    check_files_of(directory, checked_files(note.get("files", {}), file), remedy)
    try:
        load_file(directory / note["file"])
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{directory / note['file']} is damaged ({error}); {remedy}") from None
    return note


def _written(directory: Path) -> list[str]:
    """Return the names of the tensor files that the record of a state names."""
    try:
        note = read_record(directory / STATE, verify=False)
    except InputError:
        return []
    name = note.get("file")
    return [name] if isinstance(name, str) and "/" not in name else []


def remove_state(directory: Path) -> int:
    """Remove the state of a run and the references beside it; other files stay.

    Returns:
        Number of bytes removed.
    """
    sweep(directory)
    names = [STATE, *_written(directory)]
    for index in directory.glob(f"{REFERENCES}/*/{MANIFEST}"):
        folder = index.parent
        foreign = set(foreign_files(folder, ()))
        found = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
        names += [f"{REFERENCES}/{folder.name}/{p.as_posix()}" for p in found if p not in foreign]
    freed = remove_named(directory, names)
    if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
        directory.rmdir()
    return freed
