"""List the tasks of a study: shared parts first, then one task a cell, then the report."""

from __future__ import annotations

from dataclasses import dataclass

from unpact_lens.study.config import MethodConfig, StudyConfig


@dataclass(frozen=True)
class Task:
    """Hold one task of a study.

    Attributes:
        do: `"shared"`, `"cell"`, `"fail"` (record that a cell cannot be finished) or `"assemble"`.
        method: Name of the method of a cell.
        seed: Random seed of a cell.
        retry: If True, a cell that failed before is run again.
        reason: Why a cell cannot be finished.
    """

    do: str
    method: str = ""
    seed: int = 0
    retry: bool = False
    reason: str = ""

    def __str__(self) -> str:
        """Name the task in messages."""
        return f"{self.method} with seed {self.seed}" if self.method else f"{self.do} parts"


SHARED_PARTS = Task("shared")
ASSEMBLE = Task("assemble")


def methods_and_seeds(config: StudyConfig) -> list[tuple[MethodConfig, int]]:
    """Return method and seed of each cell, seed by seed; a checkpoint is measured with the first seed only.

    Args:
        config: Configuration of the study.
    """
    first = config.seeds[0]
    return [(m, s) for s in config.seeds for m in config.methods if m.checkpoint is None or s == first]


def cell_tasks(config: StudyConfig, share: tuple[int, int] = (0, 1), *, retry: bool = False) -> list[Task]:
    """Return the tasks of a study's cells, seed by seed.

    Args:
        config: Configuration of the study.
        share: Pair (i, n): every n-th cell, from cell i on.
        retry: If True, cells that failed before are run again.
    """
    cells = [Task("cell", m.name, seed, retry) for m, seed in methods_and_seeds(config)]
    return cells[share[0] :: share[1]]
