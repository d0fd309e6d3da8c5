"""Hold the result of unlearning: a new model, and the record of how it was made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from unpact_lens.attribution.key_tokens import KeyRule
from unpact_lens.attribution.result import Attribution
from unpact_lens.comparison.focus import focus
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result, storable


@dataclass(frozen=True, eq=False)
class History(Result):
    """Hold one row for each optimiser step, or for each coefficient that a sweep tried.

    Attributes:
        rows: `step` (0 is the original model), and where they apply: `lr`, `loss` (weighted sum of the terms), `forget`
            and `retain` (the terms, unweighted, nats unless the method says otherwise), `grad_norm` (before clipping),
            `forget_score` and `retain_score` (shares, at checks), `coefficient` (of a task vector, or the
            strength of ECO).
        forget_order: Indices of the forget examples that each step read.
        retain_order: Indices of the retain examples that each step read.
        trajectory: Attributions of the tracked facts, by the step after which they were taken.
    """

    figure: ClassVar[str | None] = "unlearning:history"

    rows: tuple[dict[str, float | int], ...]
    forget_order: Int[Tensor, "step batch"] | None = None
    retain_order: Int[Tensor, "step retain_batch"] | None = None
    trajectory: dict[str, list[Attribution]] = field(default_factory=dict)

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.rows)} steps",
                *(
                    f"{k} {self.rows[-1][k]:.3g}"
                    for k in ("loss", "forget", "retain", "forget_score")
                    if self.rows and k in self.rows[-1]
                ),
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each step, with NaN where a column does not apply."""
        return pd.DataFrame(list(self.rows))

    def focus(self, rule: KeyRule | None = None) -> pd.DataFrame:
        """Compute the trajectory of focus: how far the tracked facts' contributions moved from the first ones.

        Args:
            rule: Rule that selects the KeyTokens. Default: `TopK(3)`.

        Returns:
            One row for each step and measure of `comparison.focus`: `step`, `measure`, `mean` over the facts, the ends
            `low` and `high` of its interval, `n`, and the meaning of the measure (`about`).

        Raises:
            InputError: If no facts were tracked.
        """
        steps = sorted(self.trajectory, key=int)
        if not steps:
            raise InputError("this run tracked no facts; give unlearn() track=[…] for a trajectory of focus")
        first = self.trajectory[steps[0]]
        looks = [focus(first, self.trajectory[s], rule).to_frame().assign(step=int(s)) for s in steps]
        return pd.concat(looks, ignore_index=True)[["step", "measure", "mean", "low", "high", "n", "about"]]


@storable
@dataclass(frozen=True)
class Trial:
    """Hold one run of a search with `settings="auto"`.

    Attributes:
        lr: Learning rate.
        steps: Largest number of steps.
        forgotten: F at its end.
        reached: Whether it reached the forget level.
        lost: Share of the facts to keep that it lost. None if the level was missed, or without such facts.
        scored: Name of these facts. None without such facts.
        steps_run: Number of steps made.
        stopped: Reason why it ended.
    """

    lr: float
    steps: int
    forgotten: float
    reached: bool
    lost: float | None
    scored: str | None
    steps_run: int
    stopped: str

    @property
    def rank(self) -> tuple[bool, float]:
        """Return the sort key: fewest facts lost first; trials that miss the level come last, by their F."""
        return not self.reached, (self.lost or 0.0) if self.reached else -self.forgotten

    def __str__(self) -> str:
        """Describe the trial in a few words.

        >>> str(Trial(1e-4, 60, 1.0, True, 0.25, "validation facts", 20, "forget level reached"))
        'lr=0.0001, 60 steps, F = 1.00, 0.25 of the validation facts lost'
        """
        lost = "" if self.lost is None else f", {self.lost:.2f} of the {self.scored} lost"
        missed = "" if self.reached else ", which misses the level"
        return f"lr={self.lr:.4g}, {self.steps} steps, F = {self.forgotten:.2f}{missed}{lost}"


@dataclass(frozen=True, eq=False)
class Unlearned(Result):
    """Hold an unlearned model. The original model is untouched.

    Attributes:
        model: Unlearned model, of the kind that was given. For offset unlearning, WHP at inference, O3, ECO and
            in-context unlearning, a combined model: its members are scored, asked and attributed like one model.
        history: Losses, gradient norms and scores by step, and the order of the data.
        config: Every hyperparameter in force, defaults included.
        method: Registered name of the method.
        seed: Random seed of the data order and of all else that is random.
        stopped: Reason why training ended: `"forget level reached"`, `"retain floor reached"`, `"step budget used up"`,
            `"no coefficient reaches the forget level"`, `"no strength reaches the forget level"` (ECO), `"nothing to
            train"`, `"forget level reached by the adapters, but not behind the gate"` (O3), or the term that was not
            finite and the step.
        forget_score: Share of forget facts still known at the last check, or at that of `kept`; None if never checked.
        hash_before: SHA-256 of the original model's weights.
        versions: Versions of Python and of the libraries that the numbers depend on.
        threads: Number of torch threads; bitwise equality is promised for equal threads.
        forgotten: F, the share of the forget facts known to the original model that this model does not know. None if
            it cannot be measured, e.g. of raw text without questions.
        warnings: What went wrong, a sentence each: F is about 0 or misses the level asked for, or training diverged.
        kept: Step whose weights the model has, where `keep="best"` went back to an earlier check. None if it has those
            at the end of training.
        search: Trials of `settings="auto"`, in the order run. Empty without a search.
    """

    figure: ClassVar[str | None] = "unlearning:history"

    model: HookedModel
    history: History
    config: dict[str, Any]
    method: str
    seed: int
    stopped: str
    forget_score: float | None
    hash_before: str
    versions: dict[str, str]
    threads: int
    forgotten: float | None = None
    warnings: tuple[str, ...] = ()
    kept: int | None = None
    search: tuple[Trial, ...] = ()

    def __repr__(self) -> str:
        """Show method, F and steps, or the first warning, in one line of at most 100 characters."""
        f = "F unknown" if self.forgotten is None else f"F = {self.forgotten:.2f}"
        steps = max((int(row["step"]) for row in self.history.rows if "step" in row), default=0)
        said = f"WARNING: {self.warnings[0]}" if self.warnings else self.stopped
        kept = "" if self.kept is None else f", step {self.kept} kept"
        text = f"Unlearned({self.method}, {f}, {steps} steps{kept}: {said}"
        return (text if len(text) < 100 else text[:98] + "…") + ")"

    def to_frame(self) -> pd.DataFrame:
        """Return the history, one row for each step."""
        return self.history.to_frame().assign(method=self.method, seed=self.seed)
