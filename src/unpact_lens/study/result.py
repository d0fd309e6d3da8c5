"""What a study found: one cell for each method and seed, and the table over them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import pandas as pd

from unpact_lens.comparison.diff import ModelDiff
from unpact_lens.comparison.focus import Focus
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import Verdict
from unpact_lens.recovery.result import Recovery
from unpact_lens.results import Result
from unpact_lens.stats.estimate import Estimate, Rate
from unpact_lens.unlearning.result import History


@dataclass(frozen=True, eq=False)
class Cell(Result):
    """One method with one seed: what became of the facts.

    Attributes:
        method: its registered name.
        seed: of training and of every draw.
        scores: metrics of the model after, beside those of before and of the control.
        recovery: what emphasis, controls and probes brought back.
        focus: contributions of the prompt tokens before and after: forget facts.
        focus_retain: the same for retain facts; None where none were asked for.
        diffs: exact component diffs of the first forget facts.
        verdict: insufficient, hid, destroyed, erased or undecided.
        history: of the training.
        stopped: why training ended.
        settings: every setting of the method in force.
        seconds: wall time of the cell.
    """

    figure: ClassVar[str | None] = "recovery:cell_recovery"

    method: str
    seed: int
    scores: Scores
    recovery: Recovery
    focus: Focus
    focus_retain: Focus | None
    diffs: tuple[ModelDiff, ...]
    verdict: Verdict
    history: History
    stopped: str
    settings: dict[str, Any]
    seconds: float

    def net_worst(self) -> tuple[Estimate, str]:
        """Net R of the headline against the control that leaves least of it, and that control's name."""
        worst = self.recovery.net_worst
        return (worst[1], worst[0]) if worst else (Rate(0, 0), "")

    def excess_worst(self) -> tuple[Estimate, str]:
        """The largest excess of any probe, and that probe's name."""
        defined = {probe: e for probe, e in self.recovery.excesses.items() if e.n}
        probe = max(defined, key=lambda p: defined[p].value, default="")
        return (defined[probe], probe) if probe else (Rate(0, 0), "")

    def row(self) -> dict[str, Any]:
        """The cell as one row of the study's table."""
        recovery, scores = self.recovery, self.scores
        net, net_control = self.net_worst()
        excess, excess_probe = self.excess_worst()
        return {
            "method": self.method,
            "seed": self.seed,
            **_columns("F", scores.forgetting),
            **_columns("D", scores.destruction),
            **_columns("D_near", scores.destruction_near),
            **_columns("D_far", scores.destruction_far),
            "common": recovery.n_common,
            **_columns("R", recovery.rate(recovery.headline)),
            **_columns("net_R", net),
            "net_R_control": net_control,
            **_columns("excess", excess),
            "excess_probe": excess_probe,
            **{p: recovery.rate(p).value for p in ("prefill", "relearn") if p in recovery.probes},
            "overlap": float(self.focus.means["overlap"][0]),
            **{
                f"{metric}_{group}": scores.mean(metric, group)
                for metric in ("rouge_l", "exact_match", "fact_span")
                for group in ("forget", "retain", "general")
                if metric in scores.metrics
            },
            "verdict": str(self.verdict),
            "distance": self.verdict.distance,
            "stopped": self.stopped,
            "seconds": self.seconds,
        }

    def to_frame(self) -> pd.DataFrame:
        """The cell's row of the study's table."""
        return pd.DataFrame([self.row()])


@dataclass(frozen=True, eq=False)
class Study(Result):
    """A finished study.

    Attributes:
        config: as it was run, every default filled in.
        before: scores of the model before, beside those of the control.
        control: scores of the control (retrain) model; None where there is none.
        cells: one for each method and seed.
        notes: what a reader must know, e.g. that there is no retrain control.
        seconds: wall time of all cells, whenever they were run.
    """

    figure: ClassVar[str | None] = "dilemma:dilemma_plane"

    config: dict[str, Any]
    before: Scores
    control: Scores | None
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row a cell, every number with its interval; see `Cell.row`."""
        return pd.DataFrame([cell.row() for cell in self.cells])

    def summary(self) -> pd.DataFrame:
        """The table for reading: one row a cell, intervals beside the values."""
        rows = []
        for cell in self.cells:
            recovery, scores = cell.recovery, cell.scores
            excess, probe = cell.excess_worst()
            rows.append(
                {
                    "method": cell.method,
                    **({"seed": cell.seed} if len(self.config["seeds"]) > 1 else {}),
                    "F forgot": _shown(scores.forgetting),
                    "D destroyed": _shown(scores.destruction),
                    "R recovered": _shown(recovery.rate(recovery.headline)),
                    "net R": _shown(cell.net_worst()[0]),
                    "excess (probe)": f"{_shown(excess)} {probe}",
                    "key overlap": f"{cell.focus.means['overlap'][0]:.2f}",
                    "verdict": str(cell.verdict),
                }
            )
        return pd.DataFrame(rows)

    def headline(self) -> str:
        """One sentence of what was found, from the verdicts."""
        counts = Counter(label for cell in self.cells for label in cell.verdict.labels)
        told = ", ".join(f"{n} {label}" for label, n in counts.most_common())
        cells = f"{len(self.cells)} unlearned model" + ("s" if len(self.cells) != 1 else "")
        return f"{self.config['name']}: of {cells} of {self.config['model']!r} on {self.config['benchmark']!r}: {told}"


@runtime_checkable
class HasCells(Protocol):
    """What the tables over seeds read of a study."""

    @property
    def cells(self) -> tuple[Any, ...]:
        """One for each method and seed."""


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _shown(estimate: Estimate) -> str:
    if not estimate.n:
        return "undefined"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
