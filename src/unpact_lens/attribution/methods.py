"""The table of attribution methods: one name, one function, one line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.contribution import leave_one_out
from unpact_lens.attribution.units import Example
from unpact_lens.errors import InputError, nearest
from unpact_lens.registry import Registry

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """What a method works with.

    Attributes:
        model: a hooked model, or whatever `scorer` scores with.
        scorer: scores families of rows towards the target.
        seed: of methods that sample.
        options: the method's own.
    """

    model: Any
    scorer: Any
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a method finds for one example.

    Attributes:
        per_answer_token: units x answer tokens (or x 1, for a target of one number).
        error: standard error of the mean over the answer, where the method samples.
        convergence_delta: what is left unexplained, where the method promises completeness.
        settings: what was in force, beyond the options.
    """

    per_answer_token: Float[Tensor, "unit answer"]
    error: Float[Tensor, " unit"] | None = None
    convergence_delta: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One way of attributing.

    Attributes:
        run: `(run, examples) -> outcomes`.
        line: what it does, in one line.
        source: where it comes from.
        deletion: `"ids"` if it removes units by deleting them, else `"none"`.
        options: names of the keyword arguments it takes.
        scores_only: it needs nothing but scores of token ids, so an endpoint that gives log-probabilities will do.
    """

    run: Callable[[Run, Sequence[Example]], list[Outcome]]
    line: str
    source: str
    deletion: str = "none"
    options: tuple[str, ...] = ()
    scores_only: bool = False


METHODS: Registry[Method] = Registry("attribution method")


def from_scores(function: Callable[..., list[Any]]) -> Callable[[Run, Sequence[Example]], list[Outcome]]:
    """A method that needs scores of rows only, as one that takes a `Run`."""

    def run(setting: Run, examples: Sequence[Example]) -> list[Outcome]:
        found = function(setting.scorer, examples, **setting.options)
        return [f if isinstance(f, Outcome) else Outcome(f) for f in found]

    return run


METHODS.add(
    "leave_one_out",
    Method(
        from_scores(leave_one_out),
        "what the answer loses when the unit is deleted; the paper's C(x_i, y)",
        "arXiv 2509.24675",
        deletion="ids",
        scores_only=True,
    ),
)


def attribution_methods() -> pd.DataFrame:
    """Every attribution method: its name, what it does in one line, and its source."""
    import pandas as pd

    rows = [{"method": name, "about": m.line, "source": m.source} for name, m in METHODS.items()]
    return pd.DataFrame(rows).set_index("method")


def check_options(name: str, given: dict[str, Any]) -> None:
    """Refuse options that a method does not take.

    Raises:
        InputError: naming the option and those that would be accepted.
    """
    method = METHODS[name]
    for option in given:
        if option not in method.options:
            if not method.options:
                raise InputError(f"method {name!r} takes no option {option!r}; it has none")
            raise InputError(f"method {name!r} takes no option {option!r}; {nearest(option, method.options)}")
