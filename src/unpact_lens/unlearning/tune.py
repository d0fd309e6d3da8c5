"""A method at its best: a small search for the settings that destroy least at a matched forgetting level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.errors import InputError
from unpact_lens.results import Result
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.methods import find
from unpact_lens.unlearning.result import StopRule, Unlearned
from unpact_lens.unlearning.settings import Settings, split
from unpact_lens.unlearning.unlearn import asked_as, unlearn

SPACE: dict[str, tuple[float, float]] = {"lr": (1e-6, 3e-3), "alpha": (0.3, 10.0)}
"""Where the search looks, on a logarithmic scale; `alpha` only where the method has a retain term."""


@dataclass(frozen=True, eq=False)
class Tuning(Result):
    """A search and what it found.

    Attributes:
        method: that was tuned.
        best: settings of the best trial; pass them to `unlearn`.
        value: its objective, smaller is better; 1 + its forget score if no trial reached the level.
        trials: every trial in the order run: its settings, `reached` (the level), `value`, `forget_score`, `steps_run`,
            and why it `stopped`.
        level: the forgetting level that was to be reached.
        seed: of the search and of each run.
    """

    method: str
    best: dict[str, float | int]
    value: float
    trials: tuple[dict[str, Any], ...]
    level: float
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row a trial, best first."""
        ranked: list[dict[str, Any]] = sorted(self.trials, key=_rank)
        return pd.DataFrame(ranked)


def _rank(trial: Mapping[str, Any]) -> tuple[bool, float]:
    """What orders trials: those that miss the level come last."""
    return not trial["reached"], trial["value"]


def tune(
    method: str,
    model: Any,
    bench: Benchmark,
    *,
    budget: int = 20,
    level: float = 0.05,
    objective: Callable[[Unlearned], float] | None = None,
    space: Mapping[str, tuple[float | int, float | int]] | None = None,
    seed: int = 0,
    **fixed: Any,
) -> Tuning:
    """Search a method's settings for the least destruction at a matched forgetting level.

    Args:
        method: a name of `methods()`.
        model: a hooked causal model; it is not changed.
        bench: what to forget and what to keep.
        budget: how many runs.
        level: share of forget facts still known at which a run stops.
        objective: from a run to a number to minimise. Default: the share of retain facts that was destroyed. Runs that
            miss the level come after all that reach it, those nearest to it first; the sampler sees them as 1 + forget
            score, so an objective of at most 1 guides it best.
        space: for each setting, the range to search, in whole numbers if both ends are `int`; default `SPACE`.
        seed: of the search (Optuna's TPE sampler) and of each run.
        **fixed: settings that all runs share, e.g. `steps`.

    Returns:
        The best settings and all trials.

    Raises:
        InputError: if Optuna is not installed, the budget is below 1, or the space has a setting that does not exist or
            a range that is not 0 < low < high.
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
    destroyed = objective or _destruction(model, bench, settings)
    trials: list[dict[str, Any]] = []

    def run(trial: Any) -> float:
        picked = {k: _draw(trial, k, low, high) for k, (low, high) in ranges.items()}
        u = unlearn(model, bench, method=method, seed=seed, stop_at=StopRule(level), progress=False, **fixed, **picked)
        known = 1.0 if u.forget_score is None else u.forget_score
        reached = known <= level
        value = float(destroyed(u)) if reached else 1 + known
        steps = max((r["step"] for r in u.history.rows if "step" in r), default=0)
        trials.append({**picked, "reached": reached, "value": value, "forget_score": u.forget_score, "steps_run": steps,
                       "stopped": u.stopped})  # fmt: skip
        return value

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    search.optimize(run, n_trials=budget)
    best = min(trials, key=_rank)
    return Tuning(method, {k: best[k] for k in ranges}, best["value"], tuple(trials), level, seed)


def _draw(trial: Any, name: str, low: float | int, high: float | int) -> Any:
    """One value of a setting, on a logarithmic scale."""
    whole = isinstance(low, int) and isinstance(high, int)
    return (trial.suggest_int if whole else trial.suggest_float)(name, low, high, log=True)


def _destruction(model: Any, bench: Benchmark, settings: Settings) -> Callable[[Unlearned], float]:
    """Share of retain facts known before that a run destroyed."""
    kept = FactsKnown(model, bench.retain, settings)
    return lambda u: 1 - kept(u.model)
