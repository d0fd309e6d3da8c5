"""Hold the results of a study: one cell for each method and seed, and the table over them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import pandas as pd

from unpact_lens.comparison.diff import ModelDiff
from unpact_lens.comparison.focus import Focus
from unpact_lens.display import joined
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import Verdict
from unpact_lens.recovery.result import Recovery
from unpact_lens.results import Result
from unpact_lens.stats.estimate import Estimate, Rate
from unpact_lens.unlearning.result import History


@dataclass(frozen=True, eq=False)
class Cell(Result):
    """Hold the results of one method with one seed.

    Attributes:
        method: Name of the method.
        seed: Random seed of training and of every draw.
        scores: Metrics of the unlearned model, with those of the original and the retrained model.
        recovery: What emphasis, controls and probes recover.
        focus: Contributions of the prompt tokens before and after, on forget facts. None if the two models cannot be
            compared token by token.
        focus_retain: The same on retain facts. None if the study asks for none.
        diffs: Exact component diffs of the first forget facts.
        verdict: Insufficient, hid, destroyed, erased or undecided.
        history: History of training.
        stopped: Reason why training ended.
        settings: All hyperparameters of the method.
        seconds: Wall time of the cell, in seconds.
        warnings: What `unlearn` said went wrong: F is about 0 or misses the level asked for, or training diverged.
    """

    figure: ClassVar[str | None] = "recovery:cell_recovery"

    method: str
    seed: int
    scores: Scores
    recovery: Recovery
    focus: Focus | None
    focus_retain: Focus | None
    diffs: tuple[ModelDiff, ...]
    verdict: Verdict
    history: History
    stopped: str
    settings: dict[str, Any]
    seconds: float
    warnings: tuple[str, ...] = ()

    def _brief(self) -> str:
        return joined(
            [
                self.method,
                f"seed {self.seed}",
                str(self.verdict),
                f"F {self.scores.forgetting}",
                f"D {self.scores.destruction}",
            ]
        )

    def net_worst(self) -> tuple[Estimate, str]:
        """Return the smallest net R of the headline over the controls, and the name of that control."""
        worst = self.recovery.net_worst
        return (worst[1], worst[0]) if worst else (Rate(0, 0), "")

    def excess_worst(self) -> tuple[Estimate, str]:
        """Return the largest excess of any probe, and the name of that probe."""
        defined = {probe: e for probe, e in self.recovery.excesses.items() if e.n}
        probe = max(defined, key=lambda p: defined[p].value, default="")
        return (defined[probe], probe) if probe else (Rate(0, 0), "")

    def row(self) -> dict[str, Any]:
        """Return the cell as one row of the study's table.

        D is of unseen retain facts. `D_trained` is of those that the retain term trained on, and `memorised_retention`
        is their difference.
        """
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
            **(_columns("D_trained", scores.destruction_trained) if scores.parts else {}),
            **(_columns("memorised_retention", scores.memorised_retention) if scores.parts else {}),
            "common": recovery.n_common,
            **_columns("R", recovery.rate(recovery.headline)),
            **_columns("net_R", net),
            "net_R_control": net_control,
            **_columns("excess", excess),
            "excess_probe": excess_probe,
            **{p: recovery.rate(p).value for p in ("prefill", "relearn") if p in recovery.probes},
            "overlap": float("nan") if self.focus is None else float(self.focus.means["overlap"][0]),
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
        """Return the cell's row of the study's table."""
        return pd.DataFrame([self.row()])


@dataclass(frozen=True, eq=False)
class Study(Result):
    """Hold a finished study.

    Attributes:
        config: Configuration, with every default filled in.
        before: Scores of the original model. None in an audit without one.
        control: Scores of the retrained model. None if there is none.
        cells: One cell for each method and seed.
        notes: What a reader must know, e.g. that there is no retrained model.
        seconds: Wall time of all cells, whenever they were run, in seconds.
        environment: Versions, number of threads and hash of the original model.
        failed: `method, seed, error` of each cell that failed.
    """

    figure: ClassVar[str | None] = "dilemma:dilemma_plane"

    config: dict[str, Any]
    before: Scores | None
    control: Scores | None
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)
    failed: tuple[dict[str, Any], ...] = ()

    def _brief(self) -> str:
        return joined(
            [
                str(self.config.get("name", "study")),
                f"{len(self.cells)} cells",
                *(f"{c.method}: {c.verdict}" for c in self.cells),
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each cell, every number with its interval; see `Cell.row`."""
        return pd.DataFrame([cell.row() for cell in self.cells])

    def summary(self) -> pd.DataFrame:
        """Return a table for reading: one row for each cell, with intervals in the cells."""
        rows: list[dict[str, Any]] = []
        for cell in self.cells:
            recovery, scores = cell.recovery, cell.scores
            excess, probe = cell.excess_worst()
            rows.append(
                {
                    "method": cell.method,
                    **({"seed": cell.seed} if len(self.config["seeds"]) > 1 else {}),
                    "F forgot": _shown(scores.forgetting),
                    "D destroyed": _shown(scores.destruction),
                    **({"D trained": _shown(scores.destruction_trained)} if scores.parts else {}),
                    "R recovered": _shown(recovery.rate(recovery.headline)),
                    "net R": _shown(cell.net_worst()[0]),
                    "excess (probe)": f"{_shown(excess)} {probe}",
                    "key overlap": "" if cell.focus is None else f"{cell.focus.means['overlap'][0]:.2f}",
                    "verdict": str(cell.verdict),
                }
            )
        return pd.DataFrame(rows)

    def headline(self) -> str:
        """Summarise the verdicts in one sentence."""
        counts = Counter(label for cell in self.cells for label in cell.verdict.labels)
        told = ", ".join(f"{n} {label}" for label, n in counts.most_common())
        cells = f"{len(self.cells)} unlearned model" + ("s" if len(self.cells) != 1 else "")
        return f"{self.config['name']}: of {cells} of {self.config['model']!r} on {self.config['benchmark']!r}: {told}"


@runtime_checkable
class HasCells(Protocol):
    """Anything with cells: what the tables over seeds need from a study."""

    @property
    def cells(self) -> tuple[Any, ...]:
        """One cell for each method and seed."""


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    """Return an estimate as three columns: value, low and high."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _shown(estimate: Estimate) -> str:
    """Write an estimate with its interval."""
    if not estimate.n:
        return "undefined"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
