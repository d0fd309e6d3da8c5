"""Save and resume a run: one that is killed at any moment ends with the same weights after it is resumed.

A checkpoint is one safetensors file (weights, last good weights, moments of the optimiser) and one JSON file that names
it. Both are written atomically, the JSON last. The data order follows from the seed, so the step gives the position in
the data.
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
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import digest, read_json, write_json
from unpact_lens.unlearning.ensembles import CombinedModel


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
        rest = {
            k: v for k, v in vars(value).items() if k in ("kind", "weight", "keys", "thresholds", "centre", "bases")
        }
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
