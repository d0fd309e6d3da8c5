"""Register metrics and list them: each metric is one function, decorated with its source, range and direction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pandas as pd

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.registry import Registry

INFINITY = float("inf")
UNIT = (0.0, 1.0)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True)
class Metric:
    """Describe one metric.

    Attributes:
        name: Name as registered.
        description: One line.
        source: Publication or definition.
        bounds: Smallest and largest value.
        better: Better direction for a model that knows: `"higher"` or `"lower"`.
        compute: Function that computes it. It takes `Answers` and returns a tensor `[item]`, or takes `TextScores` or
            `BenchmarkRun` and returns a number. If `needs` names an argument of `evaluate`, its value comes second; for
            `"before"`, the original model's answers or text scores. (`BenchmarkRun` holds the original model itself.)
        of: What it is computed from: `"answers"` (one number for each question), `"texts"` (one number for all plain
            texts) or `"benchmark"` (one number for the whole benchmark; the model is asked more than its questions).
        binary: True if each answer is right (1) or wrong (0), so the mean is a rate.
        needs: What it needs besides the model and the benchmark: the name of an argument of `evaluate`, or an extra.
    """

    name: str
    description: str
    source: str
    bounds: tuple[float, float]
    better: Literal["higher", "lower"]
    compute: Callable[..., Any]
    of: Literal["answers", "texts", "benchmark"] = "answers"
    binary: bool = False
    needs: str | None = None

    @property
    def default(self) -> bool:
        """Return whether `evaluate` computes it if no metrics are named."""
        return self.of != "benchmark" and self.needs is None


METRICS: Registry[Metric] = Registry("metric", "unpact_lens.evaluation")
"""Metrics by name."""


def metric(
    name: str,
    *,
    source: str,
    better: Literal["higher", "lower"],
    bounds: tuple[float, float] = UNIT,
    of: Literal["answers", "texts", "benchmark"] = "answers",
    binary: bool = False,
    needs: str | None = None,
    replace: bool = False,
) -> Callable[[F], F]:
    """Register the decorated function as a metric; the first line of its docstring is the description.

    Args:
        name: Name by which `evaluate` takes it.
        source: As in `Metric`; likewise `better`, `bounds`, `of`, `binary` and `needs`.
        better: Better direction for a model that knows.
        bounds: Smallest and largest value.
        of: What the function takes.
        binary: True if each answer is right (1) or wrong (0).
        needs: Name of an argument of `evaluate`, or an extra.
        replace: Take the place of a metric of the same name.

    Returns:
        A decorator. It returns the function itself, with range, direction and source appended to its docstring.
    """
    low, high = ({INFINITY: "infinity", -INFINITY: "minus infinity"}.get(b, f"{b:g}") for b in bounds)

    def register(function: F) -> F:
        text = inspect.cleandoc(function.__doc__ or "")
        description = text.split("\n\n")[0].replace("\n", " ").rstrip(".")
        entry = Metric(name, description, source, bounds, better, function, of, binary, needs)
        METRICS.add(name, entry, replace=replace)
        function.__doc__ = f"{text}\n\nRange: {low} to {high}; {better} is better. Source: {source}."
        return function

    return register


def metrics() -> pd.DataFrame:
    """List what `evaluate` can measure.

    Returns:
        One row for each metric: description, range, better direction, what it is computed from, and source.
    """
    return pd.DataFrame(
        [
            {
                "description": m.description, "low": m.bounds[0], "high": m.bounds[1], "better": m.better, "of": m.of,
                "source": m.source,
            }
            for m in METRICS.values()
        ],
        index=pd.Index(list(METRICS), name="metric"),
    )  # fmt: skip


@dataclass(frozen=True)
class BenchmarkRun:
    """Hold a model and a benchmark, and what several metrics of the whole benchmark share.

    Attributes:
        model: Model to score.
        bench: The benchmark.
        reference: Retrained model, or None.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.
        before: Original model, or None.
    """

    model: HookedModel
    bench: Benchmark
    reference: HookedModel | None = None
    batch_tokens: int | None = None
    before: HookedModel | None = None
    _found: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[BenchmarkRun], T]) -> T:
        """Return `compute(self)`, computed at the first call and kept for the next."""
        if compute not in self._found:
            self._found[compute] = compute(self)
        found: T = self._found[compute]
        return found

    def original(self, metric: str) -> HookedModel:
        """Return the original model.

        Raises:
            InputError: If there is none.
        """
        if self.before is None:
            raise InputError(f"metric {metric!r} compares with the original model; give the model as before=…")
        return self.before

    def retrained(self, metric: str) -> HookedModel:
        """Return the retrained model.

        Raises:
            InputError: If there is none.
        """
        if self.reference is None:
            raise InputError(f"metric {metric!r} compares with a retrained model; give the model as reference=…")
        return self.reference
