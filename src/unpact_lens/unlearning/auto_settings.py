"""Search the learning rate of one `unlearn` call, and the number of steps if no rate is enough: `settings="auto"`.

1. Unlearn with the default rate and with rates up to ten times larger and smaller, each from the original model. A run
   stops when it reaches the forget level.
2. Of those that reach it, choose the one that lost the fewest facts to keep.
3. If none reaches it, unlearn once more with three times the steps, at the rate that forgot most.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.progress import progress_bar
from unpact_lens.results import read_record, write_record
from unpact_lens.unlearning.check import Check, OnCheck
from unpact_lens.unlearning.early_stopping import FactsKnown, Score, StopRule
from unpact_lens.unlearning.job import train_copy
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.result import Trial, Unlearned
from unpact_lens.unlearning.run_data import Sources
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.watched import Watched

AUTO = "auto"
"""Value of `settings` that asks for a search."""

FACTORS = (1.0, 3.0, 10.0, 1 / 3, 1 / 10)
"""Factors of the default learning rate, in the order tried."""

MORE_STEPS = 3
"""Factor of the number of steps of a last run if no rate reaches the level."""

LEVEL = 0.1
"""Forgetting level of a search where the caller asks for none: F is at least 0.9."""

SECONDS = 120.0
"""Time after which no further run starts once one has reached the level, seconds."""

USED_UP = "step budget used up"
"""Reason why a run ended that a smaller learning rate cannot mend."""

RECORD = "search.json"
"""File with the finished search, in the directory of a run's state."""


def check_auto(settings: str | None, method: Method, given: Collection[str]) -> None:
    """Check that the hyperparameters of a call can be searched.

    Args:
        settings: The caller's argument.
        method: Unlearning method.
        given: Names of the hyperparameters that the caller gave; they are fixed.

    Raises:
        InputError: If `settings` is neither None nor `"auto"`, the method does not train step by step, or nothing is
            left to search.
    """
    if settings is None:
        return
    if settings != AUTO:
        raise InputError(f"settings={settings!r}; give settings='auto', or each hyperparameter by name, e.g. lr=1e-5")
    if method.carry_out is not train_copy:
        own = ", ".join(method.options) or "none"
        raise InputError(
            f"settings='auto' searches the learning rate of a method that trains step by step, and method "
            f"{method.name!r} forms its result otherwise; give stop_at=, which it searches itself, or its own "
            f"hyperparameters ({own})"
        )
    if "lr" in given and {"steps", "epochs"} & set(given):
        raise InputError("settings='auto' has nothing to search: lr and the number of steps are given; leave one out")


def rule_of_search(rule: StopRule) -> StopRule:
    """Return the stop rule of a search: the caller's, with the forget level `LEVEL` if it has none."""
    return rule if rule.forget is not None else replace(rule, forget=LEVEL)


class Run(Protocol):
    """Define the call that unlearns with some hyperparameters."""

    def __call__(self, *, on_check: OnCheck | None, **hyperparameters: float | int) -> Unlearned:
        """Unlearn."""


@dataclass
class AutoSearch:
    """Hold a search: what each trial runs, and the trials so far.

    Attributes:
        method: Name of the method.
        run: Function that unlearns from the original model.
        rates: Learning rates in the order tried; one if it is given.
        more_steps: Whether the number of steps may be raised.
        lost: Function of a model to the share of the facts to keep that it lost. None without such facts.
        scored: Name of these facts.
        shown: Whether the search says on stderr what it does.
        trials: Trials so far.
    """

    method: str
    run: Run
    rates: tuple[float, ...]
    more_steps: bool
    lost: Score | None
    scored: str | None
    shown: bool
    trials: list[Trial] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Largest number of runs."""
        return len(self.rates) + self.more_steps

    def best(self) -> Trial:
        """Run the trials and return the chosen one.

        Of equal ones, the first is chosen. If none reaches the level, the one with the largest F is.
        """
        start = time.monotonic()
        which = f"one that loses the fewest {self.scored}" if self.scored else "first one (no facts to keep are given)"
        self._say(
            f"searching the settings of {self.method}: at most {self.most} runs from the original model; chosen is, of "
            f"those that reach the forget level, the {which}"
        )
        with progress_bar(f"searching the settings of {self.method}", self.most, shown=self.shown) as bar:
            for lr in self.rates:
                if self._may_reach(lr) and not self._is_decided(time.monotonic() - start):
                    self._try(lr=lr)
                bar.step()
            if self.more_steps and not any(trial.reached for trial in self.trials):
                nearest = max(self.trials, key=lambda trial: trial.forgotten)
                self._try(lr=nearest.lr, steps=nearest.steps * MORE_STEPS)
        chosen = min(self.trials, key=lambda trial: trial.rank)
        self._say(f"chosen after {len(self.trials)} runs: {chosen}")
        return chosen

    def _may_reach(self, lr: float) -> bool:
        """Return whether no run with this rate or a larger one used its steps up without reaching the level."""
        return not any(t.lr >= lr and t.stopped == USED_UP and not t.reached for t in self.trials)

    def _is_decided(self, seconds: float) -> bool:
        """Return whether no further run is needed, or the time is over and one has reached the level."""
        reached = [trial for trial in self.trials if trial.reached]
        return bool(reached) and (seconds > SECONDS or any(not trial.lost for trial in reached))

    def _try(self, **hyperparameters: float | int) -> None:
        """Unlearn with these hyperparameters, and add the record of the trial."""
        u = self.run(on_check=None if self.trials else self._announce(), **hyperparameters)
        known = 1.0 if u.forget_score is None else u.forget_score
        level = u.config["stop_at"]["forget"]
        self.trials.append(
            Trial(
                lr=u.config["lr"],
                steps=u.config["steps"],
                forgotten=1 - known,
                reached=known <= level,
                lost=self.lost(u.model) if self.lost is not None and known <= level else None,
                scored=self.scored,
                steps_run=max((int(row["step"]) for row in u.history.rows if "step" in row), default=0),
                stopped=u.stopped,
            )
        )

    def _announce(self) -> OnCheck:
        """Return a function that says at the first check after a step how long the search takes at most."""
        start = time.monotonic()
        begun: list[float] = []

        def announce(check: Check) -> None:
            now = time.monotonic()
            if not check.step:
                begun.append(now)
            elif len(begun) == 1:
                a_run = begun[0] - start + (now - begun[0]) / check.step * check.steps
                begun.append(now)
                self._say(
                    f"a run of {check.steps} steps takes at most about {a_run:.0f} s, "
                    f"the search {self.most * a_run:.0f} s; "
                    f"after {SECONDS:.0f} s no further run starts once one has reached the level"
                )

        return announce

    def _say(self, text: str) -> None:
        if self.shown:
            print(text, file=sys.stderr, flush=True)


def auto_search(
    model: HookedModel,
    data: Sources,
    config: Settings,
    watched: Watched,
    trial: functools.partial[Unlearned],
    *,
    shown: bool,
) -> AutoSearch:
    """Return the search of `settings="auto"`: its rates, and the facts to keep that choose among them.

    Args:
        model: Original model.
        data: Data of the run.
        config: Hyperparameters, where those that are searched have their defaults.
        watched: Stop rule and the caller's scores.
        trial: Function that unlearns with further hyperparameters.
        shown: Whether the search says on stderr what it does.

    Raises:
        InputError: If there is nothing to measure F on.
    """
    if not data.facts and watched.forget_score is None:
        raise InputError("settings='auto' measures F, and there are no questions to score; give forget_score=")
    kept, scored = watched.retain_score, "facts that retain_score= counts"
    if kept is None and data.kept:
        with contextlib.suppress(InputError):  # None of them is known.
            kept, scored = FactsKnown(model, data.kept, config), "validation facts" if data.held_out else "retain facts"
    given = trial.keywords
    return AutoSearch(
        method=given["method"],
        run=trial,
        rates=(config.lr,) if "lr" in given else tuple(config.lr * factor for factor in FACTORS),
        more_steps=not {"steps", "epochs"} & given.keys(),
        lost=None if kept is None else lambda after: 1 - kept(after),
        scored=None if kept is None else scored,
        shown=shown,
    )


def searched(search: AutoSearch, folder: Path | None, key: str) -> tuple[Trial, tuple[Trial, ...]]:
    """Run a search, or read the finished one of the run that is resumed.

    Args:
        search: The search.
        folder: Directory of the run's state, or None.
        key: `fingerprint` of the search.

    Returns:
        The chosen trial, and all trials.

    Raises:
        InputError: If the directory holds another search.
    """
    record = None if folder is None else folder / RECORD
    if record is not None and record.is_file():
        held = read_record(record)
        if held.get("key") != key:
            raise InputError(f"{record} is of another search; give an empty directory, or the same arguments")
        trials = tuple(Trial(**trial) for trial in held["trials"])
        return min(trials, key=lambda trial: trial.rank), trials
    chosen = search.best()
    if record is not None:
        write_record(record, {"key": key, "trials": [asdict(trial) for trial in search.trials]})
    return chosen, tuple(search.trials)
