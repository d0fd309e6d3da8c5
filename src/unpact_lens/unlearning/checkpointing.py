"""Save and resume a run: one that is killed at any moment ends with the same weights after it is resumed.

A checkpoint is one safetensors file (weights, last good weights, moments of the optimiser) and one JSON file that names
it. Both are written atomically, the JSON last. The data order follows from the seed, so the step gives the position in
the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.results import read_json, write_json


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return a hash of all that decides a run, to recognise the checkpoint of another run."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


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

    @property
    def _note(self) -> Path:
        return self.directory / "state.json"

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
    ) -> None:
        """Write the state after `step`, then remove the one before."""
        tensors: dict[str, Tensor] = {}
        for (name, p), good in zip(params.items(), last_good, strict=True):
            tensors[f"weight.{name}"], tensors[f"good.{name}"] = p.detach(), good
            for key, value in optimiser.state.get(p, {}).items():
                tensors[f"{key}.{name}"] = value
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / f"state-{step}.safetensors"
        partial = self.directory / f".{file.name}.partial"
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, partial)
        os.replace(partial, file)
        write_json(self._note, {"key": self.key, "step": step, "rows": list(rows), "file": file.name})
        for stale in self.directory.glob("state-*.safetensors"):
            if stale != file:
                stale.unlink()

    def load(
        self, params: Mapping[str, Parameter], last_good: Sequence[Tensor], optimiser: torch.optim.Optimizer
    ) -> tuple[int, list[dict[str, float | int]]]:
        """Restore a saved state in place.

        Returns:
            Number of steps after which it was taken, and the history up to then; `(0, [])` if there is none.

        Raises:
            InputError: If the directory holds the state of another run.
        """
        if not self._note.is_file():
            return 0, []
        note = read_json(self._note)
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
        return int(note["step"]), [dict(row) for row in note["rows"]]
