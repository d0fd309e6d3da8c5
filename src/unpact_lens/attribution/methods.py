"""Hold the registry of attribution methods, and what a method is given and returns.

A method is one function in one file of this package. It registers itself with `attribution_method`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.endpoint_scorer import EndpointScorer
from unpact_lens.attribution.scorer import Scorer
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.hooked import HookedModel
from unpact_lens.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

TARGET_UNIT = "unit of the target"
"""Unit of the scores of a method that attributes any target."""


@dataclass(frozen=True)
class MethodInput:
    """Hold what an attribution method works with.

    Attributes:
        scorer: Scorer of prompts and their variants towards the target.
        seed: Random seed of methods that sample.
    """

    scorer: Scorer | EndpointScorer
    seed: int = 0

    @property
    def local(self) -> Scorer:
        """The scorer of a hooked model, for methods that need the model's weights.

        Raises:
            TypeError: If the scores come from an endpoint.
        """
        if not isinstance(self.scorer, Scorer):
            raise TypeError("this method needs the weights of a model, not an endpoint")
        return self.scorer

    @property
    def model(self) -> HookedModel:
        """The hooked model, for methods that need its weights."""
        return self.local.model


@dataclass(frozen=True)
class MethodOutput:
    """Hold the scores of one example.

    Attributes:
        per_answer_token: Score of each unit for each answer token. One column if the target is a single number.
        error: Standard error of the mean over the answer, if the method samples.
        convergence_delta: What the scores leave unexplained, if the method promises completeness.
        settings: Hyperparameters and diagnostics to record with the result.
    """

    per_answer_token: Float[Tensor, "unit answer"]
    error: Float[Tensor, " unit"] | None = None
    convergence_delta: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """Declare one attribution method.

    Attributes:
        run: Function `(inputs, examples, **options) -> outputs`, one output for each example.
        about: Meaning of a unit's score, in one line.
        source: Publication of the method.
        unit: Unit of the scores.
        deletion: `"ids"` if the method deletes the token ids of units, else `"none"`.
        scores_only: Whether log-probabilities of token ids suffice, so that an endpoint can be attributed.
        fixed_target: What the method attributes, if the user cannot choose it.
    """

    run: Callable[..., list[MethodOutput]]
    about: str
    source: str
    unit: str = TARGET_UNIT
    deletion: str = "none"
    scores_only: bool = False
    fixed_target: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the method's own keyword arguments."""
        parameters = inspect.signature(self.run).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


METHODS: Registry[Method] = Registry("attribution method", "unpact_lens.attribution")
"""Every attribution method by name."""

Run = TypeVar("Run", bound=Callable[..., list[MethodOutput]])


def attribution_method(about: str, source: str, *, replace: bool = False, **declared: Any) -> Callable[[Run], Run]:
    """Register the decorated function as an attribution method under its own name.

    Args:
        about: Meaning of a unit's score, in one line.
        source: Publication of the method.
        replace: Take the place of a method of the same name.
        declared: Other fields of `Method`: `unit`, `deletion`, `scores_only`, `fixed_target`.
    """

    def register(function: Run) -> Run:
        METHODS.add(function.__name__, Method(function, about, source, **declared), replace=replace)
        return function

    return register


def method_names() -> tuple[str, ...]:
    """Return the names of all attribution methods: leave-one-out, then the others in alphabetical order."""
    return tuple(sorted(METHODS, key=lambda name: (name != "leave_one_out", name)))


def attribution_methods() -> pd.DataFrame:
    """List every attribution method: its name, the meaning of its scores, and its source."""
    import pandas as pd

    rows = [{"method": name, "about": METHODS[name].about, "source": METHODS[name].source} for name in method_names()]
    return pd.DataFrame(rows).set_index("method")


def check_endpoint(name: str, options: Mapping[str, Any], foil: object, attribute_bos: bool) -> None:
    """Refuse what an endpoint cannot do: it returns log-probabilities of texts and nothing else.

    Raises:
        InputError: If the method or an option needs more. The message names what would work.
    """
    if not METHODS[name].scores_only:
        able = ", ".join(n for n in method_names() if METHODS[n].scores_only)
        raise InputError(
            f"method {name!r} needs the model's weights, which an endpoint does not show; use one of: {able}"
        )
    if name == "replace" and options.get("token") is None:
        raise InputError("method 'replace' draws from the vocabulary, which an endpoint does not show; give token=")
    if foil is not None:
        raise InputError(f"foil={foil!r} needs logits, but an endpoint gives log-probabilities of its prompt only")
    if attribute_bos:
        raise InputError("attribute_bos=True, but an endpoint adds its BOS by itself; it cannot be removed")


def check_options(name: str, given: Mapping[str, Any], target: object) -> None:
    """Refuse options that a method does not take, and a target that it cannot attribute.

    Raises:
        InputError: If an option is unknown or the target is fixed. The message names what is accepted.
    """
    method = METHODS[name]
    for option in given:
        if option not in method.options:
            if not method.options:
                raise InputError(f"method {name!r} takes no option {option!r}; it has none")
            raise InputError(f"method {name!r} takes no option {option!r}; {nearest(option, method.options)}")
    if method.fixed_target is not None and target not in ("log_prob", method.fixed_target):
        shown = target if isinstance(target, str) else getattr(target, "__name__", target)
        raise InputError(
            f"method {name!r} attributes the {method.fixed_target} and cannot take target={shown!r}; omit target"
        )
