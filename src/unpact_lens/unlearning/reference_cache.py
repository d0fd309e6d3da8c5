"""Keep references (what the original model computes for a data set) in memory, or on disk where they do not fit.

On disk they are a directory of safetensors shards of about `SHARD_BYTES`, read row by row through a memory map, an
index, and a manifest. The directory appears when it is complete. One that is damaged is written again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.manifest import check_manifest
from unpact_lens.models.checkpoint import fresh_directory
from unpact_lens.models.memory import free_memory
from unpact_lens.results import read_json, write_json
from unpact_lens.writing import Scratch

SHARD_BYTES = 64 * 2**20
"""Size at which a shard is closed, bytes."""

INDEX = "index.json"
REFERENCES = "references"
"""Directory of the references inside that of a run's state."""


@dataclass(frozen=True)
class Store:
    """Decide where references are kept.

    Attributes:
        limit: Largest size of one kind of reference in memory, bytes. If None, a quarter of the free memory.
        directory: Directory for larger ones, where a resumed run finds them again. If None, a temporary directory.
            If this run is killed, the next one removes it.
    """

    limit: int | None = None
    directory: Path | None = None

    def keep(self, found: Iterable[tuple[int, Tensor]], n: int, size: int, key: Callable[[], str]) -> Sequence[Tensor]:
        """Keep rows that are computed one after the other, to be read many times in any order.

        Args:
            found: Pairs of row number and row, in any order. They are not computed if they are on disk already.
            n: Number of rows.
            size: Size of all rows, bytes.
            key: Function that returns a name which identifies the rows. It is called only if they go to disk.

        Returns:
            The rows; memory and disk give equal values.
        """
        limit = free_memory(torch.device("cpu")) // 4 if self.limit is None else self.limit
        if size <= limit:
            rows = dict(found)
            return [rows[i] for i in range(n)]
        if self.directory is None:
            temporary = Scratch(Path(tempfile.gettempdir()))
            return OnDisk.write(temporary.path / "rows", found, temporary)
        folder = self.directory / key()
        try:
            check_manifest(folder, "it is written again", required=True)
            return OnDisk(folder)
        except InputError:
            return OnDisk.write(folder, found)


class OnDisk(Sequence[Tensor]):
    """Read rows from safetensors shards.

    Args:
        directory: Directory written by `write`.
        owner: Object kept alive as long as the rows, e.g. a temporary directory.
    """

    def __init__(self, directory: Path, owner: object = None) -> None:
        self.directory, self.owner = directory, owner
        self.shard_of: list[int] = read_json(directory / INDEX)["shard_of_row"]

    @classmethod
    def write(cls, directory: Path, found: Iterable[tuple[int, Tensor]], owner: object = None) -> OnDisk:
        """Write all rows, shard by shard, and the index."""
        with fresh_directory(directory, ("*.safetensors", INDEX)) as made:
            cls._write(made, found)
        return cls(directory, owner)

    @staticmethod
    def _write(directory: Path, found: Iterable[tuple[int, Tensor]]) -> None:
        shard_of: dict[int, int] = {}
        pending: dict[str, Tensor] = {}
        shard = held = 0

        def close() -> None:
            nonlocal shard, held
            save_file(pending, directory / f"{shard}.safetensors")
            pending.clear()
            shard, held = shard + 1, 0

        for i, row in found:
            pending[str(i)] = row.cpu().contiguous()
            shard_of[i] = shard
            held += row.numel() * row.element_size()
            if held >= SHARD_BYTES:
                close()
        if pending:
            close()
        write_json(directory / INDEX, {"shard_of_row": [shard_of[i] for i in range(len(shard_of))]})

    def __len__(self) -> int:
        return len(self.shard_of)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> list[Tensor]: ...
    def __getitem__(self, i: int | slice) -> Tensor | list[Tensor]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        row = range(len(self))[i]
        with safe_open(self.directory / f"{self.shard_of[row]}.safetensors", framework="pt") as shard:
            return shard.get_tensor(str(row))
