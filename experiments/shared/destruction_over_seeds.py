"""Compare the destruction of each method with a baseline on the same retain facts, over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unpact_lens.data.splits import UNSEEN
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.result import kept_groups
from unpact_lens.stats.estimate import Difference, Rate
from unpact_lens.stats.paired import paired_difference
from unpact_lens.stats.tests import holm
from unpact_lens.study.result import HasCells


def destruction_over_seeds(study: HasCells, against: Mapping[str, str]) -> pd.DataFrame:
    """Compute forgetting and destruction of each method, and how much less it destroys than its baseline.

    Rates are over facts that the original model has right; near and far ones are about subjects that no training saw.
    Each is the mean over seeds, with a cluster-aware 95% CI.
    `D` is the mean of near and far, or the one that exists. `spared` is the baseline's share of lost retain facts minus
    the method's, on the same near and far facts. `p` is of the sign-flip test over subjects, Holm-adjusted over the
    rows.

    Args:
        study: Cells of a study with the same seeds for all methods.
        against: Baseline of each method that has one.

    Returns:
        Columns `method, seeds, F, F_low, F_high, D_near…, D_far…, D, against, spared, spared_low, spared_high, p`.

    Raises:
        InputError: If a method or baseline is not in the study.
    """
    methods = list(dict.fromkeys(c.method for c in study.cells))
    for name in (*against, *against.values()):
        if name not in methods:
            raise InputError(f"method {name!r} is not in the study; {nearest(name, methods)}")
    scores = {m: [c.scores for c in study.cells if c.method == m] for m in methods}
    first = scores[methods[0]][0]
    groups = {name: first.among(group, part=UNSEEN) for name, group in _GROUPS.items()}
    gone = {m: torch.stack([s.right_before & ~s.right for s in found]) for m, found in scores.items()}

    def among(outcomes: Tensor, group: str) -> Tensor:
        return (first.right_before & groups[group]).expand_as(outcomes)

    def difference(one: Tensor, two: Tensor, group: str) -> Difference:
        return paired_difference(one, two, first.subjects, among=among(one, group))

    spared = {m: difference(gone[b], gone[m], "D_retain") for m, b in against.items()}
    adjusted = holm({m: d.p for m, d in spared.items()})
    rows: list[dict[str, Any]] = []
    for method in methods:
        row: dict[str, Any] = {"method": method, "seeds": len(scores[method])}
        for name in ("F", "D_near", "D_far"):
            found = Rate.of(gone[method], first.subjects, among=among(gone[method], name))
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        kept = [row[f"D_{group}"] for group in kept_groups(first.groups)]
        row["D"] = sum(kept) / len(kept) if kept else float("nan")
        d = spared.get(method)
        low, high = d.interval(d.n) if d else (float("nan"), float("nan"))
        row |= {
            "against": against.get(method, ""), "spared": d.value if d else float("nan"), "spared_low": low,
            "spared_high": high, "p": adjusted[method] if d else None,
        }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


_GROUPS = {"F": "forget", "D_near": "near", "D_far": "far", "D_retain": "retain"}
