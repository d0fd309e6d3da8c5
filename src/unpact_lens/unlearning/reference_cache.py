"""Keep references (what the original model computes for a data set) in memory, or on disk where they do not fit.

On disk they are a directory of safetensors shards of about `SHARD_BYTES`, read row by row through a memory map, and an
index that is written last. A directory without an index is incomplete and is written again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import psutil  # type: ignore[import-untyped]
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unpact_lens.results import read_json, write_json

SHARD_BYTES = 64 * 2**20
"""Size at which a shard is closed, bytes."""

INDEX = "index.json"


@dataclass(frozen=True)
class Store:
    """Decide where references are kept.

    Attributes:
        limit: Largest size of one kind of reference in memory, bytes. If None, a quarter of the free memory.
        directory: Directory for larger ones, where a resumed run finds them again. If None, a temporary directory.
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
        limit = psutil.virtual_memory().available // 4 if self.limit is None else self.limit
        if size <= limit:
            rows = dict(found)
            return [rows[i] for i in range(n)]
        if self.directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="unpact-references-")
            return OnDisk.write(Path(temporary.name), found, temporary)
        folder = self.directory / key()
        return OnDisk(folder) if (folder / INDEX).is_file() else OnDisk.write(folder, found)


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
        """Write all rows, shard by shard, then the index."""
        directory.mkdir(parents=True, exist_ok=True)
        shard_of: dict[int, int] = {}
        pending: dict[str, Tensor] = {}
        shard = held = 0

        def close() -> None:
            nonlocal shard, held
            partial = directory / f".{shard}.partial"
            save_file(pending, partial)
            os.replace(partial, directory / f"{shard}.safetensors")
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
        return cls(directory, owner)

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
