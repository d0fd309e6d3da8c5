"""Tune a method: a small search for the hyperparameters that destroy least at a matched forgetting level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result
from unpact_lens.unlearning.early_stopping import FactsKnown, StopRule
from unpact_lens.unlearning.registry import find
from unpact_lens.unlearning.result import Unlearned
from unpact_lens.unlearning.settings import Settings, split
from unpact_lens.unlearning.unlearn import asked_as, unlearn

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
    """

    method: str
    best: dict[str, float | int]
    value: float
    trials: tuple[dict[str, Any], ...]
    level: float
    seed: int

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
    bench: Benchmark,
    *,
    budget: int = 20,
    level: float = 0.05,
    objective: Objective | None = None,
    space: Mapping[str, Range] | None = None,
    seed: int = 0,
    **fixed: Any,
) -> Tuning:
    """Search a method's hyperparameters for the least destruction at a matched forgetting level.

    Args:
        method: Name of a method, see `methods()`.
        model: Hooked causal model; it is not changed.
        bench: Forget and retain set.
        budget: Number of runs.
        level: Share of forget facts still known at which a run stops.
        objective: Function of a run to a number to minimise. Default: the share of retain facts that was destroyed.
            Runs that miss the level rank after all that reach it, the nearest first. The sampler sees them as 1 +
            forget score, so an objective of at most 1 guides it best.
        space: Range of each hyperparameter to search, in whole numbers if both ends are `int`. Default: `SPACE`.
        seed: Random seed of the search (Optuna's TPE sampler) and of each run.
        **fixed: Hyperparameters that all runs share, e.g. `steps`.

    Returns:
        The best hyperparameters and all trials.

    Raises:
        InputError: If Optuna is not installed, the budget is below 1, or the space has an unknown hyperparameter or a
            range that is not 0 < low < high.
    """
    try:
        import optuna
    except ImportError:
        raise InputError('tune() needs Optuna; install it with: pip install "unpact-lens[tune]"') from None
    if budget < 1:
        raise InputError(f"budget={budget}; give a positive number of runs")
    chosen = find(method)
    ranges = dict(space or {k: v for k, v in SPACE.items() if k != "alpha" or chosen.retain is not None})
    for name, (low, high) in ranges.items():
        if not 0 < low < high:
            raise InputError(f"space[{name!r}]={(low, high)}; give (low, high) with 0 < low < high")
    given = {**asked_as(bench, chosen), **{k: low for k, (low, _) in ranges.items()}, **fixed}
    settings, _ = split(given, chosen.defaults, chosen.options)
    run = {"method": method, "seed": seed, "stop_at": StopRule(level), "progress": False, **fixed}
    search = Search(model, bench, level, objective or destruction(model, bench, settings), ranges, run)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(search.run, n_trials=budget)
    best = min(search.trials, key=_rank)
    return Tuning(method, {k: best[k] for k in ranges}, best["value"], tuple(search.trials), level, seed)


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
        trials: Trials so far.
    """

    model: HookedModel
    bench: Benchmark
    level: float
    objective: Objective
    ranges: Mapping[str, Range]
    given: Mapping[str, Any]
    trials: list[dict[str, Any]] = field(default_factory=list)

    def run(self, trial: Trial) -> float:
        """Unlearn with hyperparameters drawn by `trial`, keep its record, and return the value to minimise."""
        picked: dict[str, Any] = {name: draw(trial, name, ends) for name, ends in self.ranges.items()}
        u = unlearn(self.model, self.bench, **self.given, **picked)
        known = 1.0 if u.forget_score is None else u.forget_score
        reached = known <= self.level
        value = float(self.objective(u)) if reached else 1 + known
        steps = max((r["step"] for r in u.history.rows if "step" in r), default=0)
        self.trials.append({**picked, "reached": reached, "value": value, "forget_score": u.forget_score,
                            "steps_run": steps, "stopped": u.stopped})  # fmt: skip
        return value


def draw(trial: Trial, name: str, ends: Range) -> float | int:
    """Draw one value of a hyperparameter, on a logarithmic scale."""
    low, high = ends
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=True)
    return trial.suggest_float(name, low, high, log=True)


def destruction(model: HookedModel, bench: Benchmark, settings: Settings) -> Objective:
    """Return the default objective: the share of retain facts known to the original model that a run destroyed."""
    kept = FactsKnown(model, bench.retain, settings)
    return lambda u: 1 - kept(u.model)
