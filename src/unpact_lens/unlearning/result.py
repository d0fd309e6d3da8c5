"""What unlearning gives: a new model, and the record of how it came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from unpact_lens.attribution.key_tokens import KeyRule
from unpact_lens.attribution.result import Attribution
from unpact_lens.comparison.focus import focus
from unpact_lens.errors import InputError
from unpact_lens.results import Result, storable


@storable
@dataclass(frozen=True)
class StopRule:
    """When to stop before the step budget is used up.

    Attributes:
        forget: stop once the forget score (share of facts still known) is at or below this; None: never.
        retain: stop once the retain score is below this floor; None: never.

    Raises:
        InputError: if a level lies outside 0 to 1.
    """

    forget: float | None = None
    retain: float | None = None

    def __post_init__(self) -> None:
        for name, level in (("forget", self.forget), ("retain", self.retain)):
            if level is not None and not 0 <= level <= 1:
                raise InputError(f"stop_at: {name} level {level} is not a share; give a number from 0 to 1")


@dataclass(frozen=True, eq=False)
class History(Result):
    """One row for each optimiser step, or for each coefficient that a sweep tried.

    Attributes:
        rows: `step` (0 is the model before), and where they apply: `lr`, `loss` (weighted sum of the terms), `forget`
            and `retain` (the terms, unweighted, nats unless the method says otherwise), `grad_norm` (before clipping),
            `forget_score` and `retain_score` (shares, at checks), `coefficient` (of a task vector).
        forget_order: which training examples of the forget set each step read.
        retain_order: the same for the retain set.
        trajectory: attributions of the tracked facts, keyed by the step at which they were taken.
    """

    figure: ClassVar[str | None] = "unlearning:history"

    rows: tuple[dict[str, float | int], ...]
    forget_order: Int[Tensor, "step batch"] | None = None
    retain_order: Int[Tensor, "step retain_batch"] | None = None
    trajectory: dict[str, list[Attribution]] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row a step; NaN where a column does not apply."""
        return pd.DataFrame(list(self.rows))

    def focus(self, rule: KeyRule | None = None) -> pd.DataFrame:
        """The trajectory of focus: how the tracked facts' contributions moved away from those of the first look.

        Args:
            rule: which units are KeyTokens; `TopK(3)` by default.

        Returns:
            One row for each look and measure of `comparison.focus`: `step`, `measure`, `mean` over the facts, the ends
            of its interval `low` and `high`, `n`, and what it says (`about`).

        Raises:
            InputError: if no facts were tracked.
        """
        steps = sorted(self.trajectory, key=int)
        if not steps:
            raise InputError("this run tracked no facts; give unlearn() track=[…] for a trajectory of focus")
        first = self.trajectory[steps[0]]
        looks = [focus(first, self.trajectory[s], rule).to_frame().assign(step=int(s)) for s in steps]
        return pd.concat(looks, ignore_index=True)[["step", "measure", "mean", "low", "high", "n", "about"]]


@dataclass(frozen=True, eq=False)
class Unlearned(Result):
    """A model after unlearning. The model that went in is untouched.

    Attributes:
        model: the model after, of the kind that went in; for offset unlearning, WHP at inference and O3, several models
            that predict together and are scored, asked and attributed like one.
        history: losses, gradient norms and scores by step, and the order of the data.
        config: every setting in force, defaults included.
        method: its registered name.
        seed: of the data order and whatever else is random.
        stopped: why it ended: `"forget level reached"`, `"retain floor reached"`, `"step budget used up"`,
            `"no coefficient reaches the forget level"`, `"nothing to train"`, `"forget level reached by the adapters,
            but not behind the gate"` (O3), or which term gave NaN at which step.
        forget_score: at the last check, share of forget facts still known; None if never checked.
        hash_before: sha256 over the weights of the model before.
        versions: of Python and the libraries that decide the numbers.
        threads: torch threads in force; bitwise equality is promised for equal threads.
    """

    figure: ClassVar[str | None] = "unlearning:history"

    model: Any
    history: History
    config: dict[str, Any]
    method: str
    seed: int
    stopped: str
    forget_score: float | None
    hash_before: str
    versions: dict[str, str]
    threads: int

    def to_frame(self) -> pd.DataFrame:
        """The history, one row a step."""
        return self.history.to_frame().assign(method=self.method, seed=self.seed)
