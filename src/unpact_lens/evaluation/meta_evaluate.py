r"""Test metrics of forgetting on models whose truth is known: do they tell who knows, and do they last?

1. **Faithfulness** of a score is the AUC with which it ranks models that know the facts, openly or hidden, above models
   that never knew them.
2. **Robustness** is the harmonic mean of two stabilities, averaged over unlearned models. With the score m of the
   unlearned model and of the retrained model, before and after a change,

$$R = \min\Big(\frac{m^\mathrm{ret}_\mathrm{after} - m^\mathrm{ret}_\mathrm{before}}
{m^\mathrm{unl}_\mathrm{after} - m^\mathrm{unl}_\mathrm{before}}, 1\Big), \qquad
Q = \min\Big(\frac{m^\mathrm{unl}_\mathrm{before}}{m^\mathrm{unl}_\mathrm{after}}, 1\Big).$$

   R compares what relearning brings back with what it teaches the retrained model. Q compares the score with that after
   rounding. Both are 1 if the unlearned model's score does not rise.

Intervals come from a Bayesian bootstrap over clusters, e.g. training seeds, which all scores share. Every draw adds one
model of each kind that was not seen, whose rank is drawn by Jeffreys' prior. So no interval has zero width.

Source: Dorna et al. 2025, arXiv 2506.12618 (OpenUnlearning), section 4: faithfulness, R and Q. The clusters are ours.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from unpact_lens.errors import InputError, nearest
from unpact_lens.results import Result
from unpact_lens.stats.estimate import Estimate
from unpact_lens.stats.intervals import LEVEL, require_level

PRESENT, ABSENT = ("knows", "hides"), ("never knew",)
"""Truths of the models that a faithful score ranks high, and of those that it ranks low."""

LEAST_CLUSTERS = 3
"""Smallest number of clusters from which an interval is computed."""

Row = dict[str, str | float | int | bool | None]
"""One score's numbers, by column."""

Draws = NDArray[np.float64]
"""One number for each draw of the bootstrap."""


@dataclass(frozen=True, eq=False)
class MetaEvaluation(Result):
    """Hold how faithful and how robust each score is.

    Attributes:
        rows: Table with one row for each score; see `meta_evaluate`.
        against: Score that the others are compared with. None without one.
        clusters: Number of clusters.
        level: Confidence level of the intervals.
    """

    rows: tuple[Row, ...]
    against: str | None
    clusters: int
    level: float

    def _brief(self) -> str:
        best = max(self.rows, key=lambda row: float(row["auc"] or 0))
        return f"{len(self.rows)} scores, {self.clusters} clusters, best AUC {best['auc']:.2f} by {best['score']}"

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each score, the most faithful one first."""
        frame = pd.DataFrame(list(self.rows))
        return frame.sort_values("auc", ascending=False, kind="stable", ignore_index=True)


def meta_evaluate(
    models: pd.DataFrame,
    scores: Sequence[str],
    *,
    relearned: pd.DataFrame | None = None,
    rounded: pd.DataFrame | None = None,
    against: str | None = None,
    present: Sequence[str] = PRESENT,
    absent: Sequence[str] = ABSENT,
    level: float = LEVEL,
    draws: int = 4000,
    seed: int = 0,
) -> MetaEvaluation:
    """Measure how faithful and how robust scores of forgetting are, on models whose truth is known.

    Every score must be oriented: a higher value says that the model knows more.

    Args:
        models: Table with one row for each model: columns `model` (its name), `truth`, `cluster`, and one for each
            score. Models of other truths are ignored. A column `retrained` names the retrained model of each model, if
            `relearned` is given.
        scores: Names of the columns to test.
        relearned: The same scores of some models after relearning, with their column `model`. The retrained models that
            they are compared with must be among them. If None, R is not computed.
        rounded: The same scores of some models after rounding. If None, Q is not computed.
        against: Name of a score. The difference of its AUC and that of each other score is added, from the same draws.
        present: Truths of the models that know.
        absent: Truths of the models that do not.
        level: Confidence level of the intervals.
        draws: Number of draws of the bootstrap.
        seed: Random seed of the bootstrap.

    Returns:
        One row for each score: `auc`, `present` and `absent` (numbers of models for which it is defined), `behind` (AUC
        of `against` minus this one), `R`, `Q` and `robustness`, each with `_low` and `_high`. Undefined values are NaN.

    Raises:
        InputError: If a column or a model is missing, a name occurs twice, no model knows or no model does not, or
            there are fewer than three clusters.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"model": list("abcdef"), "truth": ["knows", "never knew"] * 3,
        ...                       "cluster": [0, 0, 1, 1, 2, 2], "em": [0.9, 0.1, 0.8, 0.2, 0.1, 0.3]})
        >>> round(float(meta_evaluate(table, ["em"]).to_frame()["auc"][0]), 3)
        0.722
    """
    require_level(level)
    _check(models, scores, against, present, absent)
    known, ignorant = (models[models["truth"].isin(list(truths))] for truths in (present, absent))
    clusters = _Clusters(tuple(dict.fromkeys(models["cluster"])), draws, seed)
    areas = {name: _auc(known, ignorant, name, clusters) for name in dict.fromkeys([*scores, *filter(None, [against])])}
    rows = []
    for name in scores:
        value, drawn = areas[name]
        row: Row = {"score": name, **_with_ends("auc", value, drawn, level)}
        row |= {"present": int(known[name].notna().sum()), "absent": int(ignorant[name].notna().sum())}
        if against is not None:
            best, best_drawn = areas[against]
            same = name == against
            row |= _with_ends("behind", best - value, np.full(draws, np.nan) if same else best_drawn - drawn, level)
        stabilities = {"R": relearned, "Q": rounded}
        found = {
            letter: _stability(models, after, name, letter, clusters)
            for letter, after in stabilities.items()
            if after is not None
        }
        for letter, (mean, of_draws) in found.items():
            row |= _with_ends(letter, mean, of_draws, level)
        if len(found) == len(stabilities):
            (r, r_draws), (q, q_draws) = found["R"], found["Q"]
            mean = float(_harmonic(np.array(r), np.array(q)))
            row |= _with_ends("robustness", mean, _harmonic(r_draws, q_draws), level)
        rows.append(row)
    return MetaEvaluation(tuple(rows), against, len(clusters.names), level)


def verdict_score(forgetting: Estimate, excesses: Mapping[str, Estimate]) -> float:
    """Compute the largest tolerance ε at which the verdict still says *insufficient* or *hid*.

    *insufficient* holds where the interval of F lies below 1−ε, *hid* where the interval of the excess of a probe lies
    above ε. So the score is the larger of 1 minus the upper end of F and the largest lower end of an excess. It is 0
    for a model that certainly gives nothing back, and 1 for one that certainly knows everything.

    Args:
        forgetting: F on the forget facts.
        excesses: Excess of each probe over the retrained model, with intervals that hold together. Undefined ones are
            excluded.

    Returns:
        The score, 0 to 1; NaN if F is undefined and every excess is.
    """
    lows = [e.low for e in excesses.values() if e.n]
    kept = [1 - forgetting.alone.high] if forgetting.n else []
    return max(0.0, *kept, *lows) if kept or lows else float("nan")


def relearning_stability(before: float, after: float, retrained_before: float, retrained_after: float) -> float:
    """Compute R of one unlearned model: what relearning teaches the retrained model over what it brings back.

    Args:
        before: Oriented score of the unlearned model.
        after: The same after relearning.
        retrained_before: Oriented score of the retrained model.
        retrained_after: The same after the same relearning.

    Returns:
        R, 0 to 1; 1 if relearning does not raise the unlearned model's score.

    >>> round(relearning_stability(0.1, 0.5, 0.1, 0.3), 3)
    0.5
    """
    gained, taught = after - before, retrained_after - retrained_before
    if math.isnan(gained) or math.isnan(taught):
        return float("nan")
    return 1.0 if gained <= 0 else min(1.0, max(0.0, taught / gained))


def rounding_stability(before: float, after: float) -> float:
    """Compute Q of one unlearned model: its oriented score over that after rounding.

    A score below 0 (of a model that gives less than the retrained model) counts as 0, so the ratio is never of two
    negative numbers.

    Returns:
        Q, 0 to 1; 1 if rounding does not raise the score above 0 and above what it was.

    >>> rounding_stability(0.1, 0.4), rounding_stability(0.4, 0.1), rounding_stability(-0.1, 0.0)
    (0.25, 1.0, 1.0)
    """
    if math.isnan(before) or math.isnan(after):
        return float("nan")
    return 1.0 if after <= max(0.0, before) else max(0.0, before) / after


class _Clusters:
    """Draw the weights of the clusters, which all scores share."""

    def __init__(self, names: tuple[object, ...], draws: int, seed: int) -> None:
        self.names, self.draws, self.seed = names, draws, seed
        count = len(names)
        # Dirichlet weights of concentration (K - 2)/K give a mean of K clusters the variance s²/K.
        generator = np.random.default_rng(seed)
        self.weights = count * generator.dirichlet(np.full(count, max(1, count - 2) / count), size=draws)

    def of(self, models: pd.DataFrame) -> NDArray[np.float64]:
        """Return the weight of each model in each draw, `[draw, model]`."""
        place = {name: i for i, name in enumerate(self.names)}
        return self.weights[:, [place[c] for c in models["cluster"]]]

    def unseen(self, what: str) -> tuple[Draws, Draws]:
        """Return the weight of one model that was not seen, and its value from 0 to 1, in each draw."""
        generator = np.random.default_rng([self.seed, zlib.crc32(what.encode())])
        return generator.exponential(size=self.draws), generator.beta(0.5, 0.5, size=self.draws)


def _auc(known: pd.DataFrame, ignorant: pd.DataFrame, name: str, clusters: _Clusters) -> tuple[float, Draws]:
    """Compute the AUC of a score, and its value in every draw. Ties count one half."""
    known, ignorant = known[known[name].notna()], ignorant[ignorant[name].notna()]
    if known.empty or ignorant.empty:
        return float("nan"), np.full(clusters.draws, np.nan)
    high, low = (part[name].to_numpy(dtype=float) for part in (known, ignorant))
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    value = (ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low))
    above = (high[:, None] > low) + 0.5 * (high[:, None] == low)  # [known, ignorant]
    ours, theirs = clusters.of(known), clusters.of(ignorant)  # [draw, model]
    pairs = np.einsum("dk,ki,di->d", ours, above, theirs)
    total, other = ours.sum(1), theirs.sum(1)
    (more, ahead), (less, behind) = (clusters.unseen(f"{name}/{side}") for side in ("known", "ignorant"))
    wins = pairs + more * ahead * other + less * behind * total
    return float(value), wins / (total * other + more * other + less * total)


def _stability(
    models: pd.DataFrame, after: pd.DataFrame, name: str, letter: str, clusters: _Clusters
) -> tuple[float, Draws]:
    """Compute the mean stability of a score over the changed models, and its value in every draw."""
    first = _by_model(models, name)
    then = _by_model(after, name)
    rows = models.set_index("model")
    pairs = dict(zip(models["model"], models["retrained"], strict=True)) if letter == "R" else {}
    retrained = {other for other in pairs.values() if isinstance(other, str)}
    kept, values = [], []
    for model in then:
        if model in retrained:
            continue
        if letter == "R":
            other = pairs.get(model)
            if other not in then:
                raise InputError(
                    f"model {model!r} was relearned, and its retrained model {other!r} was not; add its row"
                )
            found = relearning_stability(first[model], then[model], first[other], then[other])
        else:
            found = rounding_stability(first[model], then[model])
        if not math.isnan(found):
            kept.append(model)
            values.append(found)
    if not kept:
        return float("nan"), np.full(clusters.draws, np.nan)
    weights = clusters.of(rows.loc[kept])  # [draw, model]
    more, unseen = clusters.unseen(f"{name}/{letter}")
    drawn = (weights @ np.array(values) + more * unseen) / (weights.sum(1) + more)
    return float(np.mean(values)), drawn


def _by_model(table: pd.DataFrame, name: str) -> dict[str, float]:
    """Return a score of each model."""
    return {str(model): float(value) for model, value in zip(table["model"], table[name], strict=True)}


def _harmonic(one: Draws, two: Draws) -> Draws:
    """Compute the harmonic mean of two arrays, or of two numbers as arrays; 0 where both are 0."""
    total = one + two
    found = np.divide(2 * one * two, total, out=np.zeros_like(total), where=total != 0)
    return np.where(np.isnan(total), np.nan, found)


def _with_ends(name: str, value: float, drawn: Draws, level: float) -> dict[str, float]:
    """Return a number with the quantiles of its draws, which are widened to contain it."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return {name: value, f"{name}_low": float("nan"), f"{name}_high": float("nan")}
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return {name: value, f"{name}_low": min(float(low), value), f"{name}_high": max(float(high), value)}


def _check(
    models: pd.DataFrame, scores: Sequence[str], against: str | None, present: Sequence[str], absent: Sequence[str]
) -> None:
    """Refuse tables that cannot be evaluated.

    Raises:
        InputError: If a column is missing, a name occurs twice, a truth is absent, or there are too few clusters.
    """
    if isinstance(scores, str):
        raise InputError(f"scores={scores!r} is one text; give a list of columns, e.g. scores=[{scores!r}]")
    for column in ("model", "truth", "cluster", *scores, *filter(None, [against])):
        if column not in models:
            raise InputError(f"the table of models has no column {column!r}; {nearest(column, list(map(str, models)))}")
    twice = models["model"][models["model"].duplicated()]
    if len(twice):
        raise InputError(f"model {twice.iloc[0]!r} occurs twice in the table; give one row a model")
    for truths in (present, absent):
        if not models["truth"].isin(list(truths)).any():
            raise InputError(
                f"no model has a truth of {list(truths)}; the truths are {sorted(map(str, models['truth'].unique()))}"
            )
    count = models["cluster"].nunique()
    if count < LEAST_CLUSTERS:
        raise InputError(f"{count} clusters; give models of at least {LEAST_CLUSTERS}, e.g. of as many training seeds")
