"""Compare the loss of facts that were trained on with that of other facts: same number of subjects, and a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from experiments.unseen.units import CURVE, HALVES, Unit
from unpact_lens.data.splits import TRAINED, UNSEEN
from unpact_lens.evaluation import Scores
from unpact_lens.evaluation.memorised_retention import memorised_retention
from unpact_lens.stats import MeanRate, Rate, quantiles
from unpact_lens.stats.joint import JointResamples

GROUPS = ("near", "far")


def same_number(found: Mapping[Unit, Scores]) -> pd.DataFrame:
    """Compare the same facts when their subject was trained on and when it was not, with as many trained subjects.

    Each split of the subjects gives two runs, one for each half, so every fact is seen once and unseen once. A fact
    counts with its mean over the splits. Rates have cluster-aware 95% CIs. The interval of the difference is from a
    bootstrap over subjects and splits that resamples both conditions together.

    Args:
        found: Scores of the units of both halves.

    Returns:
        Columns `method, group, splits, n` (facts), and each of `seen, unseen, difference` with `_low` and `_high`. The
        group `near and far` is the mean of the two. `F` is the lowest forgetting of all runs.
    """
    rows = []
    for method, runs in _by_method(found, HALVES).items():
        facts = _facts(runs.values())
        splits = sorted({unit.seed for unit in runs})
        gone: dict[str, Tensor] = {}
        known: dict[str, Tensor] = {}
        for part in (TRAINED, UNSEEN):
            pairs = [_outcomes([s for u, s in runs.items() if u.seed == split], facts, part) for split in splits]
            gone[part], known[part] = (torch.stack(rows) for rows in zip(*pairs, strict=True))  # [split, item]
        among = known[TRAINED] & known[UNSEEN]
        joint = JointResamples.draw(facts.subjects, seeds=len(splits))
        means: dict[str, list[Any]] = {"seen": [], "unseen": [], "drawn": []}
        for group in GROUPS:
            counted = among & facts.of_group(group)
            seen, unseen = (Rate.of(gone[p], facts.subjects, among=counted) for p in (TRAINED, UNSEEN))
            drawn = joint.difference(
                gone[UNSEEN], gone[TRAINED], facts.subjects, among=counted, quantity=f"{method}: {group}"
            )
            rows.append(_same_row(method, group, len(splits), seen, unseen, drawn))
            for name, value in (("seen", seen), ("unseen", unseen), ("drawn", drawn)):
                means[name].append(value)
        subjects = [[s for s, g in zip(facts.subjects, facts.groups, strict=True) if g == group] for group in GROUPS]
        both = (MeanRate.of(means["seen"], subjects), MeanRate.of(means["unseen"], subjects))
        rows.append(_same_row(method, "near and far", len(splits), *both, torch.stack(means["drawn"]).mean(0)))
        lowest = min(s.forgetting.value for s in runs.values())
        rows[-3:] = [{**row, "F": lowest} for row in rows[-3:]]
    return pd.DataFrame(rows)


def retention_curve(found: Mapping[Unit, Scores]) -> pd.DataFrame:
    """Compute destruction of trained and of unseen facts for each number of trained subjects, over seeds.

    Args:
        found: Scores of the units of the curve.

    Returns:
        Columns `method, subjects, seeds`, and each of `F, D, D_near, D_far, D_trained, D_trained_near, D_trained_far,
        memorised_retention` with `_low` and `_high`. D is of unseen facts. Rates are means over seeds with
        cluster-aware 95% CIs.
    """
    rows = []
    for method, runs in _by_method(found, CURVE).items():
        facts = _facts(runs.values())
        for n in sorted({unit.trained for unit in runs}):
            of_n = {unit.seed: scores for unit, scores in runs.items() if unit.trained == n}
            row: dict[str, Any] = {"method": method, "subjects": n, "seeds": len(of_n)}
            estimates: dict[str, Rate | MeanRate] = {}
            forget = [s.among("forget") for s in of_n.values()]
            first = next(iter(of_n.values()))
            lost = torch.stack([(s.right_before & ~s.right)[f] for s, f in zip(of_n.values(), forget, strict=True)])
            names = [s for s, kept in zip(first.subjects, forget[0].tolist(), strict=True) if kept]
            estimates["F"] = Rate.of(lost, names, among=first.right_before[forget[0]].expand_as(lost))
            for part, title in ((UNSEEN, "D"), (TRAINED, "D_trained")):
                pairs = [_outcomes([of_n[seed]], facts, part) for seed in sorted(of_n)]
                gone, known = (torch.stack(rows) for rows in zip(*pairs, strict=True))  # [seed, item]
                rates, subjects = [], []
                for group in GROUPS:
                    counted = known & facts.of_group(group)
                    rates.append(Rate.of(gone, facts.subjects, among=counted))
                    used = counted.any(0).tolist()
                    subjects.append([s for s, kept in zip(facts.subjects, used, strict=True) if kept])
                    estimates[f"{title}_{group}"] = rates[-1]
                estimates[title] = MeanRate.of(rates, subjects)
            for name in ("F", "D", "D_near", "D_far", "D_trained", "D_trained_near", "D_trained_far"):
                row |= _columns(name, estimates[name])
            row |= _columns("memorised_retention", memorised_retention(estimates["D"], estimates["D_trained"]))
            rows.append(row)
    return pd.DataFrame(rows)


class RetainFacts:
    """Hold the retain facts of all runs in one order.

    Args:
        table: Id of each fact, with its subject and group.
    """

    def __init__(self, table: Mapping[str, tuple[str, str]]) -> None:
        self.ids = tuple(sorted(table))
        self.subjects = tuple(table[i][0] for i in self.ids)
        self.groups = tuple(table[i][1] for i in self.ids)

    def of_group(self, group: str) -> Tensor:
        """Return which facts are of a group."""
        return torch.tensor([g == group for g in self.groups], dtype=torch.bool)


def _facts(found: Any) -> RetainFacts:
    """Return all retain facts that any of these runs scored."""
    table = {}
    for scores in found:
        for i, subject, group in zip(scores.ids, scores.subjects, scores.groups, strict=True):
            if group in GROUPS:
                table[i] = (subject, group)
    return RetainFacts(table)


def _outcomes(found: Sequence[Scores], facts: RetainFacts, part: str) -> tuple[Tensor, Tensor]:
    """Return which facts were lost in the run that has them in a part, and which were known to the original model."""
    gone, known = torch.zeros(len(facts.ids), dtype=torch.bool), torch.zeros(len(facts.ids), dtype=torch.bool)
    at = {name: k for k, name in enumerate(facts.ids)}
    for scores in found:
        for i in scores.among("retain", part=part).nonzero()[:, 0].tolist():
            k = at[scores.ids[i]]
            known[k] = scores.right_before[i]
            gone[k] = scores.right_before[i] & ~scores.right[i]
    return gone, known


def _by_method(found: Mapping[Unit, Scores], part: str) -> dict[str, dict[Unit, Scores]]:
    kept = {unit: scores for unit, scores in found.items() if unit.part == part}
    return {m: {u: s for u, s in kept.items() if u.method == m} for m in dict.fromkeys(u.method for u in kept)}


def _same_row(method: str, group: str, splits: int, seen: Any, unseen: Any, drawn: Tensor) -> dict[str, Any]:
    low, high = quantiles(drawn)
    difference = unseen.value - seen.value
    return {
        "method": method, "group": group, "splits": splits, "n": unseen.n, **_columns("seen", seen),
        **_columns("unseen", unseen), "difference": difference, "difference_low": min(low, difference),
        "difference_high": max(high, difference),
    }  # fmt: skip


def _columns(name: str, estimate: Any) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
