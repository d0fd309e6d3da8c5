"""Average any iterator of results over questions, with intervals and the noise baseline.

1. Read one result at a time and keep only its numbers, its id and its subject.
2. Keep the same numbers of its noise baseline, `result.floor`, if it has one.
3. Average over the questions; the bootstrap draws whole subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from unpact_lens.comparison.decomposition_summary import (
    DecompositionSummary,
    decomposition_row,
    summary_of_decompositions,
)
from unpact_lens.comparison.diff import ModelDiff
from unpact_lens.comparison.diff_summary import DiffSummary, diff_row, noise_of_diff, summary_of_diffs
from unpact_lens.comparison.key_path import KeyPath
from unpact_lens.comparison.key_path_summary import KeyPathSummary, key_path_row, summary_of_key_paths
from unpact_lens.comparison.patching_map import PatchingMap
from unpact_lens.comparison.patching_summary import PatchingSummary, patching_row, summary_of_patches
from unpact_lens.comparison.sample import Row, Sample
from unpact_lens.decomposition.result import Decomposition
from unpact_lens.errors import InputError
from unpact_lens.results import Result
from unpact_lens.stats.intervals import require_level


@dataclass(frozen=True)
class Kind:
    """Hold how results of one class are averaged.

    Attributes:
        row: Function from a result to the numbers that are kept.
        summary: Function from all rows and their sample to the average.
        noise: Function from a result to that of its noise baseline, or None.
    """

    row: Callable[[Any], Row]
    summary: Callable[[Sequence[Row], Sample], Any]
    noise: Callable[[Any], Result | None] = lambda result: getattr(result, "floor", None)


KINDS: dict[type[Result], Kind] = {
    ModelDiff: Kind(diff_row, summary_of_diffs, noise_of_diff),
    PatchingMap: Kind(patching_row, summary_of_patches),
    KeyPath: Kind(key_path_row, summary_of_key_paths),
    Decomposition: Kind(decomposition_row, summary_of_decompositions),
}
"""Classes of results that can be averaged."""


@overload
def average(
    results: Iterable[ModelDiff], *, level: float = ..., resamples: int = ..., seed: int = ...
) -> DiffSummary: ...
@overload
def average(
    results: Iterable[PatchingMap], *, level: float = ..., resamples: int = ..., seed: int = ...
) -> PatchingSummary: ...
@overload
def average(
    results: Iterable[KeyPath], *, level: float = ..., resamples: int = ..., seed: int = ...
) -> KeyPathSummary: ...
@overload
def average(
    results: Iterable[Decomposition], *, level: float = ..., resamples: int = ..., seed: int = ...
) -> DecompositionSummary: ...
def average(
    results: Iterable[Any], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> DiffSummary | PatchingSummary | KeyPathSummary | DecompositionSummary:
    """Average results of one kind over questions.

    `ul.average(ul.diff(before, after, qa, weights=False) for qa in bench.forget)`. Results are read one at a time and
    only their numbers are kept, so that any number of questions fits in memory. A result made from a `QA` carries its
    id and subject.

    Args:
        results: Results of one kind, made with the same options, any iterable: `diff`, `patch`, `graft_map`,
            `key_path` or `decompose`.
        level: Confidence level of the intervals.
        resamples: Number of bootstrap resamples. They draw whole subjects, because facts about one subject are not
            independent.
        seed: Random seed of the bootstrap.

    Returns:
        Means (nats or logits, as in each result) with their intervals. If the results hold a noise baseline (`floor=`),
        the average of the baseline is its `.floor`.

    Raises:
        InputError: If there are no results, they are not of one kind or were made with different options, some lack a
            noise baseline, places differ from prompt to prompt, or the level is not between 0 and 1.
    """
    require_level(level)
    kind: Kind | None = None
    first: Any = None
    rows: list[Row] = []
    noise: list[Row] = []
    names: list[tuple[str, str]] = []
    for k, result in enumerate(results):
        if kind is None:
            kind, first = _kind_of(result), type(result)
        if type(result) is not first:
            raise InputError(f"result {k} is a {type(result).__name__}, the first a {first.__name__}; average one kind")
        rows.append(kind.row(result))
        beside = kind.noise(result)
        if beside is not None:
            noise.append(kind.row(beside))
        if noise and len(noise) != len(rows):
            raise InputError(
                f"only some results have a noise baseline (result {k} differs); give floor= to all or none"
            )
        names.append((getattr(result, "id", ""), getattr(result, "subject", "")))
    if kind is None:
        raise InputError("no results to average; give e.g. (ul.diff(before, after, qa) for qa in bench.forget)")
    sample = Sample.of(names, level, resamples, seed)
    found = kind.summary(rows, sample)
    return replace(found, floor=kind.summary(noise, sample)) if noise else found


def _kind_of(result: object) -> Kind:
    """Look up how results of this class are averaged.

    Raises:
        InputError: Naming the classes that can be averaged.
    """
    for known, kind in KINDS.items():
        if type(result) is known:
            return kind
    names = ", ".join(known.__name__ for known in KINDS)
    raise InputError(f"a {type(result).__name__} cannot be averaged; give results of one kind: {names}")
