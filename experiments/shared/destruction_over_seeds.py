"""Compare the destruction of each method with a baseline on the same retain facts, over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.result import kept_groups
from unpact_lens.stats.estimate import Difference
from unpact_lens.stats.paired import paired_difference
from unpact_lens.stats.tests import holm
from unpact_lens.study.result import HasCells


def destruction_over_seeds(study: HasCells, against: Mapping[str, str]) -> pd.DataFrame:
    """Compute forgetting and destruction of each method, and how much less it destroys than its baseline.

    Rates are over facts that the original model has right. Each is the mean over seeds, with a 95% CI from a bootstrap
    over subjects and seeds. `D` is the mean of near and far, or the one that exists. `spared` is the baseline's share
    of lost retain facts minus the method's, on the same near and far facts. `p` is McNemar's, Holm-adjusted over the
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
    groups = {g: torch.tensor([x in names for x in first.groups]) for g, names in _PARTS.items()}
    gone = {m: torch.stack([s.right_before & ~s.right for s in found]) for m, found in scores.items()}

    def difference(one: Tensor, two: Tensor, group: str) -> Difference:
        among = (first.right_before & groups[group]).expand(len(one), -1)
        return paired_difference(one, two, first.subjects, among=among)

    spared = {m: difference(gone[b], gone[m], "D_retain") for m, b in against.items()}
    adjusted = holm({m: d.p for m, d in spared.items()})
    rows: list[dict[str, Any]] = []
    for method in methods:
        row: dict[str, Any] = {"method": method, "seeds": len(scores[method])}
        for name in ("F", "D_near", "D_far"):
            found = difference(gone[method], torch.zeros_like(gone[method]), name)
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


_PARTS = {"F": ("forget",), "D_near": ("near",), "D_far": ("far",), "D_retain": ("near", "far")}
