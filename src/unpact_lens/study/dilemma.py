"""Compare, over all seeds, how much of the forgotten facts can be recovered and how much each method destroys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.data.splits import TRAINED, UNSEEN
from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.memorised_retention import memorised_retention
from unpact_lens.evaluation.result import Scores, kept_groups
from unpact_lens.evaluation.verdict import distance_to_reliable, verdict
from unpact_lens.results import Result
from unpact_lens.stats.bootstrap import quantiles
from unpact_lens.stats.estimate import Difference, Estimate, MeanRate, Rate
from unpact_lens.stats.joint import JointResamples
from unpact_lens.stats.paired import Outcomes, simultaneous_differences
from unpact_lens.study.pooled import beyond, estimates
from unpact_lens.study.result import Cell, Study

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Dilemma(Result):
    """Hold every method of a study on the plane of recovery and destruction, over all its seeds.

    Attributes:
        config: Configuration of the study.
        control: Scores of the retrained model. None without one.
        rows: Table with one row for each method; see `dilemma`.
        kind: Kind of knowledge of the facts. None for all facts.
    """

    figure: ClassVar[str | None] = "dilemma:dilemma_plane"

    config: dict[str, Any]
    control: Scores | None
    rows: tuple[dict[str, Any], ...]
    kind: str | None = None

    def _brief(self) -> str:
        return joined([f"{len(self.rows)} methods", *(f"{r['method']}: {r['verdict']}" for r in self.rows)])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each method."""
        return pd.DataFrame(list(self.rows))


def dilemma(study: Study, *, kind: str | None = None) -> Dilemma:
    r"""Compute F, D, the largest excess of any probe and the distance to reliable of each method, with intervals.

    A fact counts with its mean over the seeds in which it counts. F and D are rates with cluster-aware Wilson
    intervals. The intervals of the excesses hold for all probes together. The distance is
    $\lVert (1 - F, \max(0, \max_p \mathrm{excess}_p), D) \rVert_2$. Its interval takes F, D and every excess from the
    same draws of subjects and seeds (`JointResamples`), and the largest excess anew in each draw. The maximum of noisy
    numbers is biased upwards, and so is this interval.

    Args:
        study: Finished study. The excess is that of `probes_over_seeds`; without a retrained model and without facts
            that have a wrong subject, it and the distance are undefined.
        kind: Kind of knowledge of the facts to count. If None, all facts.

    Returns:
        Columns `method, seeds`, each of `F, D, D_near, D_far, D_trained, memorised_retention, excess, distance` with
        `_low` and `_high`, `excess_probe`, `common` (facts in the common set, mean over seeds) and `verdict`. D is of
        unseen retain facts. Undefined values are NaN.

    Raises:
        InputError: If no fact is of that kind.
    """
    rows = []
    for method, cells in _by_method(study, kind).items():
        F, near, far = (_lost(cells, group, kind) for group in ("forget", "near", "far"))
        D, trained = (_destruction(cells, kind, part) for part in (UNSEEN, TRAINED))
        excesses = _excesses(cells, kind)
        defined = {probe: e for probe, e in excesses.items() if e.n}
        probe = max(defined, key=lambda p: defined[p].value, default="")
        judged = verdict(F, D, excesses, epsilon=float(study.config["epsilon"]))
        row: dict[str, Any] = {"method": method, "seeds": len(cells)}
        shown: dict[str, Estimate] = {"F": F, "D": D, "D_near": near, "D_far": far}
        if cells[0].scores.parts:
            shown |= {"D_trained": trained, "memorised_retention": memorised_retention(D, trained)}
        for name, found in shown.items():
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        worst = defined[probe] if probe else None
        row |= {
            "excess": worst.value if worst else NAN, "excess_low": worst.low if worst else NAN,
            "excess_high": worst.high if worst else NAN, "excess_probe": probe,
            "common": sum(int((c.recovery.common & _is(c.recovery.kinds, kind)).sum()) for c in cells) / len(cells),
        }  # fmt: skip
        low, high = quantiles(_distances(cells, kind))
        row |= {
            "distance": judged.distance, "distance_low": min(low, judged.distance),
            "distance_high": max(high, judged.distance), "verdict": str(judged),
        }  # fmt: skip
        rows.append(row)
    return Dilemma(study.config, study.control, tuple(rows), kind)


def dilemma_by_kind(study: Study) -> pd.DataFrame:
    """Compute `dilemma` for each kind of knowledge. The table has a first column `kind`."""
    kinds = dict.fromkeys(k for c in study.cells for k in c.recovery.kinds)
    frames = [dilemma(study, kind=kind).to_frame().assign(kind=kind) for kind in kinds]
    found = pd.concat(frames, ignore_index=True)
    return found[["kind", *(c for c in found if c != "kind")]]


def kinds_table(frame: pd.DataFrame, value: str = "distance") -> pd.DataFrame:
    """Return a table of methods and kinds of knowledge, with `value [low, high]` in each cell.

    Args:
        frame: Table of `dilemma_by_kind`.
        value: Name of a column that has an interval.

    Raises:
        InputError: If there is no such column.
    """
    if f"{value}_low" not in frame:
        raise InputError(f"the table has no {value!r} with an interval; give e.g. 'distance', 'F', 'D' or 'excess'")
    shown = estimates(frame).pivot(index="method", columns="kind", values=value)
    return shown.reindex(index=frame["method"].unique(), columns=frame["kind"].unique()).rename_axis(columns=None)


def distance_gaps(study: Study, method: str) -> pd.DataFrame:
    """Compute how much farther from reliable the other methods are than one method.

    Both distances use the same draws of subjects and seeds.

    Args:
        study: Finished study.
        method: Name of the method to compare with.

    Returns:
        Columns `method, against, gap, gap_low, gap_high`. A gap above 0 means that `against` is farther from reliable.

    Raises:
        InputError: If the study does not have the method.
    """
    cells = _by_method(study, None)
    if method not in cells:
        raise InputError(f"method {method!r} is not in the study; {nearest(method, cells)}")
    at = {row["method"]: row["distance"] for row in dilemma(study).rows}
    drawn = {m: _distances(found, None) for m, found in cells.items()}
    rows = []
    for other in (m for m in cells if m != method):
        low, high = quantiles(drawn[other] - drawn[method])
        rows.append(
            {"method": method, "against": other, "gap": at[other] - at[method], "gap_low": low, "gap_high": high}
        )
    return pd.DataFrame(rows, columns=["method", "against", "gap", "gap_low", "gap_high"])


def _by_method(study: Study, kind: str | None) -> Mapping[str, Sequence[Cell]]:
    """Return the cells of each method, after checking the kind."""
    known = dict.fromkeys(k for c in study.cells for k in c.recovery.kinds)
    if kind is not None and kind not in known:
        raise InputError(f"no forget fact is of kind {kind!r}; {nearest(kind, known)}")
    return {m: [c for c in study.cells if c.method == m] for m in dict.fromkeys(c.method for c in study.cells)}


def _is(kinds: Sequence[str], kind: str | None) -> Bool[Tensor, " item"]:
    """Return which facts are of a kind. None is every kind."""
    return torch.tensor([kind in (None, k) for k in kinds], dtype=torch.bool)


def _gone(cells: Sequence[Cell], group: str, kind: str | None, part: str = UNSEEN) -> tuple[Tensor, Tensor]:
    """Return which facts are lost, and which of the group (near and far: of the part) count: `[seed, item]` each."""
    first = cells[0].scores
    gone = torch.stack([c.scores.right_before & ~c.scores.right for c in cells])
    among = first.right_before & first.among(group, kind=kind, part=part)
    return gone, among.expand_as(gone)


def _destruction(cells: Sequence[Cell], kind: str | None, part: str) -> MeanRate:
    """Estimate D on one part of the retain facts: the mean of near and far, or the one that there is."""
    kept = kept_groups(cells[0].scores.groups)
    return MeanRate.of(
        [_lost(cells, group, kind, part) for group in kept], [_subjects(cells, group, kind, part) for group in kept]
    )


def _subjects(cells: Sequence[Cell], group: str, kind: str | None, part: str) -> list[str]:
    """Return the subjects of the facts of a group that count."""
    counted = _gone(cells, group, kind, part)[1].any(0).tolist()
    return [s for s, kept in zip(cells[0].scores.subjects, counted, strict=True) if kept]


def _lost(cells: Sequence[Cell], group: str, kind: str | None, part: str = UNSEEN) -> Rate:
    """Estimate the share of a group's known facts that are lost."""
    gone, among = _gone(cells, group, kind, part)
    return Rate.of(gone, cells[0].scores.subjects, among=among)


def _came_back(cells: Sequence[Cell], probe: str, kind: str | None) -> Outcomes:
    """Return what a probe recovers, what its excess is computed against, and which facts count: `[seed, item]` each."""
    first, found = cells[0].recovery, [c.recovery for c in cells]
    i = first.probes.index(probe)
    right = torch.stack([r.right_after for r in found])
    control, answerable = beyond(found, right)
    among = torch.stack([r.common & r.asked[i] for r in found]) & answerable[:, i] & _is(first.kinds, kind)
    return Outcomes(right[:, i], control[:, i], among)


def _excesses(cells: Sequence[Cell], kind: str | None) -> dict[str, Difference]:
    """Estimate the excess of every probe, with intervals that hold for all of them together."""
    recovery = cells[0].recovery
    outcomes = {probe: _came_back(cells, probe, kind) for probe in recovery.excess_probes}
    return simultaneous_differences(outcomes, recovery.subjects)


def _distances(cells: Sequence[Cell], kind: str | None) -> Float[Tensor, " draw"]:
    """Compute the distance to reliable in each draw of subjects and seeds. NaN if a part of it is undefined.

    Methods share the draws of subjects and seeds. Each method and each part of D has an unseen subject of its own.
    """
    scores, recovery, method = cells[0].scores, cells[0].recovery, cells[0].method
    joint = JointResamples.draw((*scores.subjects, *recovery.subjects), seeds=len(cells))

    def lost(group: str) -> Tensor:
        gone, among = _gone(cells, group, kind)
        return joint.rate(gone, scores.subjects, among=among, quantity=f"{method}: lost of {group}")

    F = lost("forget")
    kept = [lost(group) for group in kept_groups(scores.groups)]
    D = torch.stack(kept).mean(0) if kept else torch.full_like(F, NAN)
    excesses = []
    for probe in recovery.excess_probes:
        o = _came_back(cells, probe, kind)
        excesses.append(
            joint.difference(o.first, o.second, recovery.subjects, among=o.among, quantity=f"{method}: excess")
        )
    drawn = torch.stack([F, D, *excesses], 1).tolist()
    return torch.tensor([distance_to_reliable(f, d, e) for f, d, *e in drawn], dtype=torch.float64)
