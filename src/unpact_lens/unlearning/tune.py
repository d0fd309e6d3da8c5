"""Tune a method: a small search for the hyperparameters that destroy least at a matched forgetting level."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from unpact_lens.data.as_facts import FactSource, as_benchmark
from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.splits import RetainSplit
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result, read_record, versions, write_record
from unpact_lens.source_hash import source_hash
from unpact_lens.unlearning.checkpointing import fingerprint
from unpact_lens.unlearning.early_stopping import FactsKnown, StopRule
from unpact_lens.unlearning.registry import default_settings, find
from unpact_lens.unlearning.result import Unlearned
from unpact_lens.unlearning.settings import Settings, split
from unpact_lens.unlearning.unlearn import asked_as, trained_model, unlearn

Objective = Callable[[Unlearned], float]
"""Function of a run to a number to minimise."""

Range = tuple[float | int, float | int]
"""Smallest and largest value to try, on a logarithmic scale."""

SPACE: dict[str, Range] = {"lr": (1e-6, 3e-3), "alpha": (0.3, 10.0)}
"""Default search space; `alpha` is searched only if the method has a retain term."""


@dataclass(frozen=True, eq=False)
class Tuning(Result):
    """Hold a search and its best hyperparameters.

    Attributes:
        method: Name of the tuned method.
        best: Hyperparameters of the best trial; pass them to `unlearn`.
        value: Objective of the best trial, smaller is better; 1 + its forget score if no trial reached the level.
        trials: Every trial in the order run: its hyperparameters, `reached` (the level), `value`, `forget_score`,
            `steps_run`, and the reason why it `stopped`.
        level: Forgetting level to be reached.
        seed: Random seed of the search and of each run.
        retain_split: Split of the retain facts; None if there is none, and in version 0.1.
    """

    method: str
    best: dict[str, float | int]
    value: float
    trials: tuple[dict[str, Any], ...]
    level: float
    seed: int
    retain_split: RetainSplit | None = None

    def _brief(self) -> str:
        return joined(
            [
                self.method,
                f"best {self.value:.3f} of {len(self.trials)} trials",
                ", ".join(f"{k}={v:g}" for k, v in self.best.items()),
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each trial, best first."""
        ranked: list[dict[str, Any]] = sorted(self.trials, key=_rank)
        return pd.DataFrame(ranked)


def _rank(trial: Mapping[str, Any]) -> tuple[bool, float]:
    """Return the sort key of a trial: trials that miss the level come last."""
    return not trial["reached"], trial["value"]


def tune(
    method: str,
    model: HookedModel,
    bench: FactSource,
    *,
    budget: int = 20,
    level: float = 0.05,
    objective: Objective | None = None,
    space: Mapping[str, Range] | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    **fixed: Any,
) -> Tuning:
    """Search a method's hyperparameters for the least destruction at a matched forgetting level.

    Args:
        method: Name of a method, see `methods()`.
        model: Hooked causal model; it is not changed.
        bench: Forget and retain set: a benchmark, or facts in any form that `from_pairs` reads. The `validation` facts
            are scored; unseen facts are not touched.
        budget: Number of runs.
        level: Share of forget facts still known at which a run stops.
        objective: Function of a run to a number to minimise. Default: the share of validation facts that was destroyed.
            Runs that miss the level rank after all that reach it, the nearest first. The sampler sees them as 1 +
            forget score, so an objective of at most 1 guides it best.
        space: Range of each hyperparameter to search, in whole numbers if both ends are `int`. Default: `SPACE`.
        seed: Random seed of the search (Optuna's TPE sampler) and of each run.
        checkpoint: Directory for the record of finished runs. If the search was killed, the same call goes on after
            them, also with a larger budget.
        **fixed: Hyperparameters that all runs share, e.g. `steps`.

    Returns:
        The best hyperparameters and all trials.

    Raises:
        InputError: If Optuna is not installed, the benchmark has no validation facts for the default objective, the
            budget is below 1, the space has an unknown hyperparameter or a range that is not 0 < low < high, or the
            checkpoint is of another search.
    """
    try:
        import optuna
    except ImportError:
        raise InputError('tune() needs Optuna; install it with: pip install "unpact-lens[tune]"') from None
    bench = as_benchmark(bench, chat=fixed.get("chat", False))
    if budget < 1:
        raise InputError(f"budget={budget}; give a positive number of runs")
    chosen = find(method)
    ranges = dict(space or {k: v for k, v in SPACE.items() if k != "alpha" or chosen.retain is not None})
    for name, (low, high) in ranges.items():
        if not 0 < low < high:
            raise InputError(f"space[{name!r}]={(low, high)}; give (low, high) with 0 < low < high")
    given = {**asked_as(bench, chosen), **{k: low for k, (low, _) in ranges.items()}, **fixed}
    settings, _ = split(given, default_settings(chosen, trained_model(model, given), given), chosen.options)
    run = {"method": method, "seed": seed, "stop_at": StopRule(level), "progress": False, **fixed}
    record = None if checkpoint is None else Path(checkpoint) / "trials.json"
    facts = {**run, "model": model, "bench": bench, "ranges": ranges, "objective": objective}
    facts |= {"versions": versions(), "source": source_hash()}
    aim = objective or destruction(model, bench, settings)
    search = Search(model, bench, level, aim, ranges, run, record, fingerprint(facts))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(search.run, n_trials=budget)
    best = min(search.trials, key=_rank)
    return Tuning(
        method, {k: best[k] for k in ranges}, best["value"], tuple(search.trials), level, seed, bench.retain_split
    )


@runtime_checkable
class Trial(Protocol):
    """Define the part of an Optuna trial that a search uses."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        """Draw a whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Draw a number."""


@dataclass(frozen=True)
class Search:
    """Hold a search: what each trial runs, and the trials so far.

    Attributes:
        model: Original model.
        bench: Forget and retain set.
        level: Forgetting level to be reached.
        objective: Function of a run to a number to minimise.
        ranges: Range of each hyperparameter.
        given: Arguments of `unlearn` that all trials share.
        record: File with the finished trials, or None.
        key: `fingerprint` of the search.
        trials: Trials so far.
        finished: Trials of the record that were not asked for again yet.
    """

    model: HookedModel
    bench: Benchmark
    level: float
    objective: Objective
    ranges: Mapping[str, Range]
    given: Mapping[str, Any]
    record: Path | None = None
    key: str = ""
    trials: list[dict[str, Any]] = field(default_factory=list)
    finished: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.record is None or not self.record.is_file():
            return
        try:
            held = read_record(self.record)
        except InputError as error:
            raise InputError(f"{error}; delete it to start the search again") from None
        if held.get("key") != self.key:
            raise InputError(f"{self.record} is of another search; give an empty directory, or the same arguments")
        trials = held.get("trials")
        if not isinstance(trials, list) or not all(isinstance(t, dict) and "value" in t for t in trials):
            raise InputError(f"{self.record} holds no list of trials; delete it to start again")
        self.finished.extend(trials)

    def run(self, trial: Trial) -> float:
        """Unlearn with hyperparameters drawn by `trial`, keep its record, and return the value to minimise."""
        picked: dict[str, Any] = {name: draw(trial, name, ends) for name, ends in self.ranges.items()}
        # The sampler draws the same values again where it sees the same results, so finished trials are only read.
        if self.finished and {k: self.finished[0].get(k) for k in picked} == picked:
            self.trials.append(self.finished.pop(0))
            return float(self.trials[-1]["value"])
        self.finished.clear()
        self.trials.append(self._tried(picked))
        if self.record is not None:
            write_record(self.record, {"key": self.key, "trials": self.trials})
        return float(self.trials[-1]["value"])

    def _tried(self, picked: Mapping[str, Any]) -> dict[str, Any]:
        """Unlearn with these hyperparameters and return the record of the trial."""
        u = unlearn(self.model, self.bench, **self.given, **picked)
        known = 1.0 if u.forget_score is None else u.forget_score
        reached = known <= self.level
        return {
            **picked,
            "reached": reached,
            "value": float(self.objective(u)) if reached else 1 + known,
            "forget_score": u.forget_score,
            "steps_run": max((r["step"] for r in u.history.rows if "step" in r), default=0),
            "stopped": u.stopped,
        }


def draw(trial: Trial, name: str, ends: Range) -> float | int:
    """Draw one value of a hyperparameter, on a logarithmic scale."""
    low, high = ends
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=True)
    return trial.suggest_float(name, low, high, log=True)


def destruction(model: HookedModel, bench: Benchmark, settings: Settings) -> Objective:
    """Return the default objective: the share of the validation facts known to the original model that a run destroyed.

    Raises:
        InputError: If there are no validation facts. Trained ones would favour runs that memorise them, and unseen ones
            must not choose what is reported on them.
    """
    if not bench.validation:
        raise InputError(
            f"benchmark {bench.name!r} has no validation facts to tune on; split its retain facts with bench.split() "
            "or load_benchmark(retain_split=...), or give objective="
        )
    kept = FactsKnown(model, bench.validation, settings)
    return lambda u: 1 - kept(u.model)
