"""Compare two outcomes on the same facts: one comparison, or a family whose intervals hold simultaneously."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.stats.clusters import as_rows, by_subject, design_effect, over_seeds, seed_variance
from unpact_lens.stats.estimate import Contrast, Difference, require_same_facts
from unpact_lens.stats.finite import require_finite
from unpact_lens.stats.intervals import LEVEL, require_level
from unpact_lens.stats.sign_flip import max_sign_flip_p, sign_flip_p
from unpact_lens.stats.tests import holm

DRAWS = 4000
"""Draws of the largest studentised statistic."""

SHRINKAGE = 2
"""Correlations of k subjects count k / (k + 2): of few subjects, they are hardly known."""

Name = TypeVar("Name")


@dataclass(frozen=True)
class Outcomes:
    """Hold two outcomes on the same facts.

    Attributes:
        first: True for facts where the event of interest occurred, in rows if there are several seeds.
        second: The same for the event that it is compared with.
        among: True for outcomes that count, for each seed; if None, all.
    """

    first: Bool[Tensor, "*seeds item"]
    second: Bool[Tensor, "*seeds item"]
    among: Bool[Tensor, "*seeds item"] | None = None


def paired_difference(
    first: Bool[Tensor, "*seeds item"],
    second: Bool[Tensor, "*seeds item"],
    clusters: Sequence[str],
    *,
    among: Bool[Tensor, "*seeds item"] | None = None,
    level: float = LEVEL,
) -> Difference:
    """Compute the difference of two rates on the same facts, with its interval and the sign-flip test over subjects.

    The design effect is the mean of those of the two discordant cells, weighted by their variances.

    Args:
        first: True for facts where the event of interest occurred, in rows if there are several seeds.
        second: The same for the event that it is compared with.
        clusters: Subject of each fact.
        among: True for outcomes that count, for each seed; if None, all. A fact counts with its mean over the seeds in
            which it counts.
        level: Confidence level.

    Returns:
        The difference; undefined if no fact counts.

    Raises:
        InputError: If the shapes or the number of clusters do not fit.
    """
    require_same_facts(first, second)
    if among is not None:
        require_same_facts(first, among)
    ones, mask = as_rows(first, clusters, among)
    twos, _ = as_rows(second, clusters, among)
    present = mask.any(0)  # [item]
    n = int(present.sum())
    if not n:
        return Difference(0.0, 0.0, 0.0, 0.0, 0, None, level)
    cells = [
        float(over_seeds(cell, mask)[0].sum())
        for cell in (ones * twos, ones * (1 - twos), (1 - ones) * twos, (1 - ones) * (1 - twos) * mask)
    ]
    effects = [design_effect(cell, clusters, among=among) for cell in (first & ~second, ~first & second)]
    rates = [(cell + 0.5) / (n + 1) for cell in cells[1:3]]
    weights = [p * (1 - p) for p in rates]
    by_fact, present = over_seeds(ones - twos, mask)
    differences, _ = by_subject(by_fact, present, clusters)
    return Difference(
        both=cells[0],
        only_first=cells[1],
        only_second=cells[2],
        neither=cells[3],
        clusters=len(differences),
        p=sign_flip_p(differences),
        level=level,
        design_effect=sum(e * w for e, w in zip(effects, weights, strict=True)) / sum(weights),
        seed_variance=seed_variance(ones - twos, mask, clusters, level),
    )


def simultaneous_differences(
    outcomes: Mapping[Name, Outcomes], clusters: Sequence[str], *, level: float = LEVEL, seed: int = 0
) -> dict[Name, Difference]:
    r"""Compute several differences whose intervals all hold together, with p-values adjusted for the whole family.

    The intervals are those of `paired_difference` at a higher level $2\Phi(c) - 1$, where c is the quantile of the
    largest studentised statistic over the family; see `simultaneous_level`. P-values come from the largest statistic
    under sign flips of whole subjects.

    Args:
        outcomes: Outcomes of each comparison by name, on the same facts.
        clusters: Subject of each fact.
        level: Confidence level of the whole family.
        seed: Random seed of the draws and flips.

    Returns:
        The differences by the same names. Undefined ones are not counted as comparisons.

    Raises:
        InputError: If the shapes or the number of clusters do not fit.

    Source: Montiel Olea & Plagborg-Møller 2019, J. Applied Econometrics 34:1 (sup-t bands); Westfall & Young 1993.
    """
    found = {
        name: paired_difference(o.first, o.second, clusters, among=o.among, level=level) for name, o in outcomes.items()
    }
    defined = [name for name, d in found.items() if d.n]
    if not defined:
        return found
    names, groups = np.unique(list(clusters), return_inverse=True)
    sums, scores = (np.zeros((len(names), len(defined))) for _ in range(2))  # [subject, comparison]
    for column, name in enumerate(defined):
        o = outcomes[name]
        ones, mask = as_rows(o.first, clusters, o.among)
        twos, _ = as_rows(o.second, clusters, o.among)
        by_fact, present = over_seeds(ones - twos, mask)
        sums[:, column] = np.bincount(groups, weights=by_fact, minlength=len(names))
        residuals = (by_fact - found[name].value) * present
        scores[:, column] = np.bincount(groups, weights=residuals, minlength=len(names))
    each = simultaneous_level(scores, level=level, seed=seed)
    adjusted = max_sign_flip_p(sums, seed)
    family = {
        name: replace(found[name], each_level=each, adjusted_p=max(float(p), float(found[name].p or 0.0)))
        for name, p in zip(defined, adjusted, strict=True)
    }
    return {**found, **family}


def simultaneous_level(
    scores: Float[NDArray[np.float64], "subject comparison"], *, level: float = LEVEL, seed: int = 0
) -> float:
    r"""Compute the level of each interval at which all intervals of a family hold together.

    The critical value c is the quantile of $\max_j |Z_j|$. Z is drawn by a Gaussian multiplier bootstrap of the
    subjects' scores, studentised. Correlations of k subjects are multiplied by k / (k + 2), and comparisons without
    any variation are independent of the others, so few subjects give nearly the Šidák level.

    Args:
        scores: Sum over the facts of a subject of the deviations from the mean, `[subject, comparison]`.
        level: Level of the family.
        seed: Random seed of the draws.

    Returns:
        A level between `level` and Šidák's.

    Raises:
        InputError: If there is no comparison, a score is not finite, or the level is not between 0 and 1.

    Source: Chernozhukov, Chetverikov & Kato 2013, Annals of Statistics 41:2786.
    """
    require_level(level)
    require_finite(scores, "scores", "subject, comparison")
    if not scores.shape[1]:
        raise InputError(f"scores of shape {scores.shape}; give at least one comparison, [subject, comparison]")
    comparisons = scores.shape[1]
    if comparisons == 1:
        return level
    moving = scores[(np.abs(scores) > 0).any(1)]
    lengths = np.sqrt((moving**2).sum(0))  # [comparison]
    unit = np.divide(moving, lengths, out=np.zeros_like(moving), where=lengths > 0)
    subjects = len(moving)
    shared = np.where(lengths > 0, subjects / (subjects + SHRINKAGE), 0.0)  # [comparison]
    generator = np.random.default_rng(seed)
    together = generator.standard_normal((DRAWS, subjects)) @ unit  # [draw, comparison]
    apart = generator.standard_normal((DRAWS, comparisons))
    largest = np.abs(np.sqrt(shared) * together + np.sqrt(1 - shared) * apart).max(1)
    each = 2 * float(norm.cdf(np.quantile(largest, level))) - 1
    return min(max(each, level), level ** (1 / comparisons))


def family_of_contrasts(
    contrasts: Mapping[Name, Contrast | Difference], level: float = LEVEL
) -> dict[Name, Contrast | Difference]:
    """Give estimates on different facts the intervals of a family: each at the Bonferroni level, p-values by Holm.

    Args:
        contrasts: Estimates by name. Undefined ones are not counted.
        level: Confidence level of the whole family.

    Source: Holm 1979.
    """
    count = sum(1 for c in contrasts.values() if c.n)
    names = {str(i): name for i, name in enumerate(contrasts)}
    adjusted = holm({i: contrasts[name].p for i, name in names.items()})
    return {
        name: replace(contrasts[name], each_level=1 - (1 - level) / max(1, count), adjusted_p=adjusted[i])
        for i, name in names.items()
    }
