"""Pool the seeds of a study: what each probe recovers, by method, with intervals over subjects and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.recovery.result import (
    EMPHASIS_FAMILY,
    PARAPHRASE,
    UNRELATED,
    WRONG_SUBJECT,
    Recovery,
    own_control,
    stand_in_row,
    without_controls,
)
from unpact_lens.stats.estimate import Difference, Rate
from unpact_lens.stats.paired import Outcomes, paired_difference, simultaneous_differences
from unpact_lens.stats.tests import holm
from unpact_lens.study.result import HasCells

NAN = float("nan")

NET = {"net_paraphrase": PARAPHRASE, "net_unrelated": UNRELATED, "net_wrong_subject": WRONG_SUBJECT}
"""Columns of differences to a control prompt that is the same for every row. The last two are computed for emphasis
only, whose words these control prompts follow."""


def probes_over_seeds(study: HasCells) -> pd.DataFrame:
    """Return a table with one row for each method and probe, over all seeds.

    A fact counts with its mean over the seeds in which it is in the common set. R has a cluster-aware Wilson interval,
    differences have paired score intervals for the effective number of facts. The intervals of `excess` hold for all
    probes of a method together (controls have their own), and `excess_p` is adjusted by the largest statistic.

    `excess` is the difference to the retrained model under the same probe. Without a retrained model, it is the
    difference to the unlearned model's own answers about the wrong subject (for a patch: with the states of an
    unrelated fact). `net_random` is the difference to the probe's own control row: random words, an unrelated fact or
    the wrong subject. `net_paraphrase` is the difference to a paraphrase. For emphasis, `net_unrelated` and
    `net_wrong_subject` are the differences to unrelated text of the same length and to the same question about another
    subject. Their p-values are of the sign-flip test over subjects, Holm-adjusted over the rows of a method.

    Args:
        study: Finished study. Without a retrained model and without facts that have a wrong subject, excesses are
            undefined.

    Returns:
        Columns `method, seeds, probe, family, n, R, R_low, R_high, control`, and for `excess` and each `net_…` its
        value, `_low`, `_high` and `_p`. Undefined values are NaN.

    Raises:
        InputError: If the seeds of a method differ in facts or probes.
    """
    rows: list[dict[str, Any]] = []
    for method in dict.fromkeys(c.method for c in study.cells):
        recoveries = [c.recovery for c in study.cells if c.method == method]
        rows += _method_rows(method, recoveries)
    return pd.DataFrame(rows)


def _method_rows(method: str, recoveries: Sequence[Recovery]) -> list[dict[str, Any]]:
    """Compute the rows of one method from the recoveries of its seeds."""
    first = recoveries[0]
    if any((r.items, r.probes) != (first.items, first.probes) for r in recoveries):
        raise InputError(f"{method}: its seeds were asked different facts or probes; run them as one study")
    common = torch.stack([r.common for r in recoveries])
    right = torch.stack([r.right_after for r in recoveries])
    control, answerable = beyond(recoveries, right)

    def against(i: int, other: Tensor, asked: Tensor) -> Difference:
        return paired_difference(right[:, i], other, first.subjects, among=common & asked)

    found: list[dict[str, Any]] = []
    nets: dict[str, dict[str, Difference]] = {name: {} for name in ("excess", "net_random", *NET)}
    judged: dict[str, Outcomes] = {}
    for i, probe in enumerate(first.probes):
        asked = torch.stack([r.asked[i] for r in recoveries])
        rate = Rate.of(right[:, i], first.subjects, among=common & asked)
        of_control = Rate.of(control[:, i], first.subjects, among=common & asked & answerable[:, i])
        if probe in first.excess_probes:
            judged[probe] = Outcomes(right[:, i], control[:, i], common & asked & answerable[:, i])
        else:
            nets["excess"][probe] = against(i, control[:, i], asked & answerable[:, i])
        found.append(
            {
                "method": method, "seeds": len(recoveries), "probe": probe, "family": first.families[i], "n": rate.n,
                "R": rate.value, "R_low": rate.low, "R_high": rate.high, "control": of_control.value,
            }
        )  # fmt: skip
        own = own_control(first.probes, probe)
        for name, row in (("net_random", own), *NET.items()):
            follows = name in ("net_random", "net_paraphrase") or first.families[i] == EMPHASIS_FAMILY
            if row in first.probes and row != probe and follows:
                j = first.probes.index(row)
                nets[name][probe] = against(i, right[:, j], asked & torch.stack([r.asked[j] for r in recoveries]))
    nets["excess"] |= simultaneous_differences(judged, first.subjects)
    for name, differences in nets.items():
        if name == "excess":
            adjusted = {probe: d.p if d.adjusted_p is None else d.adjusted_p for probe, d in differences.items()}
        else:
            adjusted = holm({probe: d.p for probe, d in differences.items()})
        for entry in found:
            d = differences.get(entry["probe"])
            low, high = d.interval(d.n) if d else (NAN, NAN)
            entry |= {name: d.value if d else NAN, f"{name}_low": low, f"{name}_high": high}
            entry[f"{name}_p"] = adjusted[entry["probe"]] if d else None
    return found


def beyond(
    recoveries: Sequence[Recovery], right: Bool[Tensor, "seed probe item"]
) -> tuple[Bool[Tensor, "seed probe item"], Bool[Tensor, "seed probe item"]]:
    """Return what the excess of each row is computed against, and the facts of which that was asked.

    This is the retrained model under that row. Without one, it is the unlearned model's own answers about the wrong
    subject (for a patch: with the states of an unrelated fact). Without either, no fact has been asked, and the excess
    is undefined.

    Args:
        recoveries: One recovery for each seed, of the same facts and probes.
        right: What is right after unlearning under each row.
    """
    first = recoveries[0]
    given = [r.right_control for r in recoveries if r.right_control is not None]
    if len(given) == len(recoveries):
        return torch.stack(given), torch.ones_like(right)
    if WRONG_SUBJECT not in first.probes:
        return torch.zeros_like(right), torch.zeros_like(right)
    rows = [first.probes.index(stand_in_row(first.probes, p)) for p in first.probes]
    return right[:, rows], torch.stack([r.asked[rows] for r in recoveries])


def wide(frame: pd.DataFrame, value: str, probes: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a table of methods and probes, with `value [low, high]` in each cell. Undefined cells are empty.

    Args:
        frame: Table of `probes_over_seeds`, with a column `variant` if there are several.
        value: `R`, `excess`, or one of the `net_…`.
        probes: Probes in the order of the columns. If None, all of them.

    Raises:
        InputError: If a probe is not in the table.
    """
    index = [c for c in ("variant", "method") if c in frame]
    chosen = list(dict.fromkeys(frame["probe"])) if probes is None else list(probes)
    missing = next((p for p in chosen if p not in set(frame["probe"])), None)
    if missing is not None:
        raise InputError(f"probe {missing!r} is not in the table; it has {', '.join(dict.fromkeys(frame['probe']))}")

    shown = frame.assign(cell=estimates(frame)[value])
    order = list(dict.fromkeys(zip(*(shown[c] for c in index), strict=True)))
    table = shown.pivot_table(index=index, columns="probe", values="cell", aggfunc="first", sort=False)[chosen]
    return table.reindex(order if len(index) > 1 else [k[0] for k in order]).reset_index()


def estimates(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table for reading: a column with a `_low` and a `_high` column becomes `value [low, high]`.

    Args:
        frame: Any table. Undefined values become empty.

    >>> estimates(pd.DataFrame({"D": [0.5, NAN], "D_low": [0.4, NAN], "D_high": [0.6, NAN], "n": [3, 0]}))
                       D  n
    0  0.50 [0.40, 0.60]  3
    1                     0
    """
    shown: dict[str, Any] = {}
    for name in frame.columns:
        if name.endswith(("_low", "_high")) and name.rsplit("_", 1)[0] in frame:
            continue
        if f"{name}_low" not in frame:
            shown[name] = frame[name]
            continue
        rows = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
        shown[name] = [with_interval(*row) for row in rows]
    return pd.DataFrame(shown, index=frame.index)


def with_interval(value: float, low: float, high: float) -> str:
    """Write an estimate with its interval. Empty if it is undefined.

    >>> with_interval(0.5, 0.4, 0.6)
    '0.50 [0.40, 0.60]'
    """
    return "" if pd.isna(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def by_probe(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return the transpose of `wide`, with probes as rows and without controls except the paraphrase.

    Args:
        frame: Table of `probes_over_seeds`. With a column `variant`, each variant becomes a block of columns.
        value: `R`, `excess`, or one of the `net_…`.
    """
    table = wide(frame, value, without_controls(frame))
    names = table["method"] + ", " + table["variant"] if "variant" in table else table["method"]
    turned = table.drop(columns=["variant", "method"], errors="ignore").T
    return turned.set_axis(list(names), axis=1).rename_axis("probe").reset_index()
