"""Make the key of a part of an experiment, so that a changed experiment never reads the parts of another one."""

from __future__ import annotations

from pathlib import Path

from unpact_lens.source_hash import source_hash
from unpact_lens.study.workspace import Workspace

EXPERIMENTS = Path(__file__).parents[1]

SCRIPTS = tuple(path.relative_to(EXPERIMENTS).as_posix() for path in EXPERIMENTS.rglob("run.py"))
"""Scripts that only name an experiment's files and write its tables and figures."""


def experiment_key(space: Workspace, part: str, **facts: object) -> dict[str, object]:
    """Return the key of a part of an experiment: the key of a study's cell, and the source of the experiments.

    Args:
        space: Shared parts of the study.
        part: Kind of the part.
        **facts: What else the part depends on: facts, choices, options, seeds, models.
    """
    return space.key(f"experiment {part}", experiments=source_hash(EXPERIMENTS, SCRIPTS, "*.py"), **facts)
