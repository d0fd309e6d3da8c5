"""Put finished audits on one dilemma plane and into one table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from unpact_lens.auditing.as_study import as_study
from unpact_lens.auditing.result import Audit
from unpact_lens.errors import InputError
from unpact_lens.results import Result, load


@dataclass(frozen=True, eq=False)
class AuditComparison(Result):
    """Hold several audits.

    Attributes:
        audits: Finished audits.
        notes: What a reader must know, e.g. that the audits are of different facts.
    """

    figure: ClassVar[str | None] = "dilemma:dilemma_plane"

    def _brief(self) -> str:
        return ", ".join(f"{a.name}: {a.verdict}" for a in self.audits)

    audits: tuple[Audit, ...]
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> dict[str, object]:
        """Return what the dilemma plane reads: name and tolerance."""
        return {"name": "audits", "epsilon": self.audits[0].verdict.epsilon}

    @property
    def control(self) -> None:
        """Return no retrained model: each audit may have another one."""
        return None

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each audit, in the columns of a study's table."""
        return as_study(self.audits, "audits").to_frame()

    def summary(self) -> pd.DataFrame:
        """Return a table for reading, with intervals in the cells."""
        names = self.to_frame()["method"]
        return pd.concat([a.summary() for a in self.audits], ignore_index=True).assign(model=names)


def compare_audits(sources: Sequence[str | os.PathLike[str] | Audit]) -> AuditComparison:
    """Compare finished audits: one dilemma plane and one table.

    Args:
        sources: Directories of audits, or audits.

    Returns:
        The comparison. Its notes say if facts, tolerances or budgets differ.

    Raises:
        InputError: If there are fewer than two, or a directory holds no audit.
    """
    if len(sources) < 2:
        raise InputError(f"{len(sources)} audit given; give at least two directories of `unpact audit --out`")
    audits = tuple(s if isinstance(s, Audit) else _read(s) for s in sources)
    different: dict[str, set[object]] = {
        "facts": {a.data["sha256"] for a in audits},
        "tolerance": {a.verdict.epsilon for a in audits},
        "budget": {a.budget for a in audits},
        "source of the package": {str(a.environment.get("source")) for a in audits},
    }
    notes = tuple(f"The audits differ in their {what}." for what, values in different.items() if len(values) > 1)
    return AuditComparison(audits, notes)


def _read(folder: str | os.PathLike[str]) -> Audit:
    found = load(folder)
    if not isinstance(found, Audit):
        raise InputError(f"{folder} holds a {type(found).__name__}, not an audit; give what `unpact audit --out` wrote")
    return found
