"""The report's tables: verdicts with every rate, answers by metric, what was generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unpact_lens.report.words import interval, labels_of, number

FIRST_EXAMPLES = 8
"""How many facts are shown: the first of the seed, never chosen."""


@dataclass(frozen=True)
class Column:
    """A column of the verdict table.

    Attributes:
        key: in the study's frame; its interval stands in `{key}_low` and `{key}_high` where there is one.
        label: over the column.
        about: what it is, with its formula.
    """

    key: str
    label: str
    about: str


COLUMNS = (
    Column("F", "F", "Forgetting: of the forget facts right before, the fraction wrong after, under the plain prompt "
           "(the fact span in the generated answer). Higher is more forgotten."),
    Column("D_near", "D near", "Destruction of near facts (same relation or neighbouring subject): of those right "
           "before, the fraction wrong after. Lower is better."),
    Column("D_far", "D far", "Destruction of far facts (unrelated to what was forgotten): of those right before, the "
           "fraction wrong after. Lower is better."),
    Column("D", "D", "Destruction: the mean of D near and D far."),
    Column("R", "R", "Recovery: of the common set (right before under the plain and every compared prompt, wrong after "
           "under the plain one), the fraction right after under the headline emphasis."),
    Column("net_R", "net R", "R minus the same rate under the control that leaves least of it (random words, unrelated "
           "text, paraphrase, wrong subject, retrain model): what the key words themselves bring back."),
    Column("excess", "excess", "Over all probes (emphasis, paraphrase, prefill, relearning): the recovered rate "
           "minus the control model's under that same probe; the largest, with its probe. What is hidden, not erased."),
    Column("overlap", "overlap", "Jaccard overlap of the KeyTokens before and after, mean over the forget facts: 1 "
           "is unchanged focus, 0 a wholly different one."),
    Column("prefill", "prefill", "Of the common set, the fraction right after when the answer's opening is given."),
    Column("relearn", "relearn", "Of the common set facts held out of it, the fraction right after relearning on a few "
           "of the forgotten facts."),
    Column("distance", "distance", "Distance to reliable: the Euclidean norm of (1 − F, max(0, largest excess), D). 0 "
           "is reliable, √3 the worst."),
)  # fmt: skip
"""What the verdict table shows, between the method and its verdict."""

VERDICTS = {
    "insufficient": "F < 1 − ε: too much is still known.",
    "destroyed": "D > ε: facts that were to be kept are gone.",
    "hid": "the excess of some probe > ε: the facts are still there.",
    "erased": "F ≥ 1 − ε, D ≤ ε and every excess ≤ ε.",
    "undecided": "no rule holds with confidence: an interval straddles its threshold.",
}
"""The rule of each verdict; each holds only where the whole 95% interval says so."""


def verdict_table(study: Any) -> dict[str, Any]:
    """The table of methods: one row a cell, and the retrain control's where there is one.

    Returns:
        `columns` (those that the study has), and `rows` of `name`, `cells` (text, interval, share for a bar),
        `verdicts`, `why`, `open`.
    """
    frame = study.to_frame()
    columns = [c for c in COLUMNS if c.key in frame]
    rows = []
    for name, cell, (_, row) in zip(labels_of(study.cells), study.cells, frame.iterrows(), strict=True):
        sizes = {
            "F": cell.scores.forgetting.n, "D_near": cell.scores.destruction_near.n,
            "D_far": cell.scores.destruction_far.n, "R": cell.recovery.n_common,
        }  # fmt: skip
        rows.append(
            {
                "name": name,
                "stopped": cell.stopped,
                "cells": [_cell(row, c.key, sizes.get(c.key)) for c in columns],
                "verdicts": list(cell.verdict.labels),
                "why": dict(cell.verdict.reasons),
                "open": [
                    {"what": what, "why": why, "needed": cell.verdict.n_needed.get(what)}
                    for what, why in cell.verdict.open.items()
                ],
            }
        )
    return {"columns": columns, "rows": rows, "control": _control_row(study.control, columns)}


def scores_table(study: Any) -> dict[str, Any]:
    """Metrics by group of facts for the model before, the control and every cell.

    Returns:
        `metrics` (with their groups), and `rows` of `name` and `cells`.
    """
    models = {"before": study.before}
    if study.control is not None:
        models["retrain control"] = study.control
    models |= dict(zip(labels_of(study.cells), (c.scores for c in study.cells), strict=True))
    groups = [g for g in ("forget", "near", "far", "general") if g in study.before.groups]
    metrics = [(m, groups) for m in study.before.metrics]
    rows = [
        {
            "name": name,
            "cells": [_share(s.mean(m, g) if m in s.metrics else math.nan) for m, _ in metrics for g in groups],
            "perplexity": number(s.perplexity),
        }
        for name, s in models.items()
    ]
    return {
        "metrics": metrics,
        "rows": rows,
        "perplexity": any(not math.isnan(s.perplexity) for s in models.values()),
    }


def generated_rows(study: Any, cell: Any) -> list[dict[str, Any]]:
    """What the models answered to the first forget facts of the seed, under the plain prompt.

    Returns:
        Rows of `prompt`, `gold`, and for `before`, `after` (and `control`) the text and whether the fact is in it.
    """
    return [
        {
            "prompt": a.prompt,
            "gold": a.answer,
            **{
                name: _answer(scores, a.id)
                for name, scores in (("before", study.before), ("after", cell.scores), ("control", study.control))
                if scores is not None
            },
        }
        for a in cell.focus.before[:FIRST_EXAMPLES]
    ]


def recovery_rows(recovery: Any) -> list[dict[str, str]]:
    """The numbers behind the recovery figure, for reading."""
    rows = []
    for row in recovery.to_frame().to_dict("records"):
        beside = row.get("control", row.get("never known"))
        rows.append(
            {
                "probe": str(row["probe"]).replace("_", " "),
                "family": str(row["family"]),
                "rate": number(row.get("R")),
                "rate_interval": interval(row.get("low"), row.get("high")),
                "n": number(row.get("n"), 0),
                "control": number(beside),
                "excess": number(row.get("excess")),
                "excess_interval": interval(row.get("excess low"), row.get("excess high")),
                "net": number(row.get("net")),
                "net_interval": interval(row.get("net low"), row.get("net high")),
            }
        )
    return rows


def first_per_probe(recovery: Any, facts: int = 2) -> list[Any]:
    """The kept examples of the first facts, under every row."""
    ids = list(dict.fromkeys(e.id for e in recovery.examples))[:facts]
    return [e for e in recovery.examples if e.id in ids]


def by_group(scores: Any, *, known: bool = False) -> dict[str, int]:
    """How many facts each group has, or how many of them the model gave."""
    counted = [g for g, right in zip(scores.groups, scores.right.tolist(), strict=True) if right or not known]
    return {g: counted.count(g) for g in ("forget", "near", "far", "general") if g in scores.groups}


def _cell(row: Any, key: str, size: int | None) -> dict[str, Any]:
    """A number with its interval, a bar where it is a share, and what it is over: n facts, or the name of a control."""
    value = row[key]
    shown = {
        "text": number(value),
        "interval": interval(row.get(f"{key}_low"), row.get(f"{key}_high")),
        "bar": None if math.isnan(value) or key == "distance" else round(min(max(value, 0.0), 1.0), 3),
        "note": "" if size is None else f"n = {size}",
    }
    of = {"net_R": "net_R_control", "excess": "excess_probe"}.get(key)
    if of and not math.isnan(value) and row.get(of):
        shown["note"] = str(row[of]).split(":")[0].replace("_", " ")
    return shown


def _control_row(control: Any, columns: Sequence[Column]) -> list[dict[str, Any]] | None:
    """F and D of the retrain control; probes have no excess there by definition."""
    if control is None or control.values_before is None:
        return None
    rates = {
        "F": control.forgetting, "D_near": control.destruction_near, "D_far": control.destruction_far,
        "D": control.destruction,
    }  # fmt: skip
    empty = {"text": "–", "interval": "", "bar": None, "note": ""}
    return [
        {
            "text": number(rates[c.key].value), "interval": interval(rates[c.key].low, rates[c.key].high),
            "bar": rates[c.key].value if rates[c.key].n else None, "note": "",
        } if c.key in rates else empty
        for c in columns
    ]  # fmt: skip


def _share(value: float) -> dict[str, Any]:
    return {"text": number(value), "bar": None if math.isnan(value) else round(min(max(value, 0.0), 1.0), 3)}


def _answer(scores: Any, fact: str) -> dict[str, Any]:
    if fact not in scores.ids:
        return {"text": "", "right": None}
    at = scores.ids.index(fact)
    return {"text": scores.generated[at], "right": bool(scores.right[at])}
