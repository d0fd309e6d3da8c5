"""Build the tables of the report: verdicts with their rates, metrics by model, answers, probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unpact_lens.report.sentences import interval, labels_of, number

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.evaluation.result import Scores
    from unpact_lens.recovery.result import Example, Recovery
    from unpact_lens.report.study_like import CellLike, StudyLike

FIRST_EXAMPLES = 8
"""Number of facts shown: always the first of the seed, never selected."""

GROUPS_SHOWN = ("forget", "near", "far", "general")
"""Groups of facts that tables show."""


@dataclass(frozen=True)
class Column:
    """Describe a column of the verdict table.

    Attributes:
        key: Column of the study's frame. Its 95% CI is in the columns `{key}_low` and `{key}_high`, if any.
        label: Header of the column.
        about: Definition of the quantity.
    """

    key: str
    label: str
    about: str


COLUMNS = (
    Column("F", "F", "Forgetting: of the forget facts that the original model knows, the fraction that the unlearned "
           "model does not, under the plain prompt. A fact is known if its span is in the generated answer. Higher is "
           "more forgotten."),
    Column("D_near", "D near", "Destruction of near facts (same relation or related subject) about subjects that "
           "unlearning never saw: of those that the original model knows, the fraction that the unlearned model does "
           "not. Lower is better."),
    Column("D_far", "D far", "Destruction of far facts (unrelated to the forgotten ones) about subjects that "
           "unlearning never saw: of those that the original model knows, the fraction that the unlearned model does "
           "not. Lower is better."),
    Column("D", "D", "Destruction of unseen facts: the mean of D near and D far. Verdict and distance use it. Lower is "
           "better."),
    Column("D_trained", "D trained", "Destruction of the retain facts that were given to the method, mean of near and "
           "far. A method can rehearse exactly these facts, so a low value is no evidence that nothing was destroyed."),
    Column("memorised_retention", "memorised", "Memorised retention: D minus D trained. Above 0, the model keeps what "
           "it rehearsed and loses other facts."),
    Column("R", "R", "Recovery: of the common set, the fraction that the unlearned model answers under the main "
           "emphasis. The common set holds the facts that the original model knows under the plain and every compared "
           "prompt, and the unlearned model does not know under the plain one."),
    Column("net_R", "net R", "R minus the rate under the control that leaves the smallest difference (random words, "
           "unrelated text, paraphrase, wrong subject, retrained model): the recovery due to the key words."),
    Column("excess", "excess", "Largest excess over all probes (emphasis, paraphrase, prefill, relearning): the "
           "recovered rate minus that of the retrained model under the same probe. It measures hidden facts."),
    Column("overlap", "overlap", "Jaccard overlap of the KeyTokens of the original and the unlearned model, mean over "
           "the forget facts. 1 is the same focus, 0 is a disjoint one."),
    Column("prefill", "prefill", "Of the common set, the fraction that the unlearned model answers when given the "
           "answer prefix."),
    Column("relearn", "relearn", "Of the common set, without the relearned facts, the fraction that the unlearned "
           "model answers after relearning a few of the forgotten facts."),
    Column("distance", "distance", "Distance to reliable unlearning: the Euclidean norm of (1 − F, max(0, largest "
           "excess), D). 0 is reliable, √3 the largest value."),
)  # fmt: skip
"""Columns of the verdict table, between the method and its verdict."""

VERDICTS = {
    "insufficient": "F < 1 − ε: too much is still known.",
    "destroyed": "D > ε: facts that should be kept are lost.",
    "hid": "The excess of some probe is > ε: the facts are still in the model.",
    "erased": "F ≥ 1 − ε, D ≤ ε and every excess ≤ ε.",
    "undecided": "No rule is satisfied by a whole 95% CI.",
}
"""Rule of each verdict. A verdict is given only if the whole 95% CI satisfies its rule."""


def verdict_table(study: StudyLike) -> dict[str, Any]:
    """Build the table of verdicts: one row per cell, and one for the retrained model if there is one.

    Args:
        study: A finished study.

    Returns:
        `columns` (those that the study has), `control` (cells of the retrained model, or None), and `rows` with `name`,
        `stopped`, `warnings`, `cells` (text, interval, bar, note), `verdicts`, `why` and `open`.
    """
    frame = study.to_frame()
    columns = [c for c in COLUMNS if c.key in frame]
    rows = []
    for name, cell, (_, row) in zip(labels_of(study.cells), study.cells, frame.iterrows(), strict=True):
        sizes = {
            "F": cell.scores.forgetting.n, "D_near": cell.scores.destruction_near.n,
            "D_far": cell.scores.destruction_far.n, "D_trained": cell.scores.destruction_trained.n,
            "R": cell.recovery.n_common,
        }  # fmt: skip
        rows.append(
            {
                "name": name,
                "stopped": cell.stopped,
                "warnings": cell.warnings,
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


def scores_table(study: StudyLike) -> dict[str, Any]:
    """Build the table of metrics by group of facts, for the original model, the retrained model and every cell.

    Args:
        study: A finished study.

    Returns:
        `metrics` (with their groups), `rows` with `name`, `cells` and `perplexity`, and whether any perplexity is
        defined.
    """
    fixed = {"original model": study.before, "retrained model": study.control}
    models = {name: scores for name, scores in fixed.items() if scores is not None}
    models |= dict(zip(labels_of(study.cells), (c.scores for c in study.cells), strict=True))
    first = first_scores(study)
    groups = [g for g in GROUPS_SHOWN if g in first.groups]
    metrics = [(m, groups) for m in first.metrics]
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


def generated_rows(study: StudyLike, cell: CellLike) -> list[dict[str, Any]]:
    """List the answers of the models to the first forget facts of the seed, under the plain prompt.

    Args:
        study: A finished study.
        cell: One of its cells.

    Returns:
        Rows of `prompt`, `gold`, and the answers `before`, `after` (and `control`), each with its text and whether it
        has the fact.
    """
    if cell.focus is None:
        return []
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


def recovery_rows(recovery: Recovery) -> list[dict[str, str]]:
    """Format the numbers of the recovery figure, one row per probe or control."""
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
                "excess_p": number(row.get("excess p"), 3),
                "net": number(row.get("net")),
                "net_interval": interval(row.get("net low"), row.get("net high")),
            }
        )
    return rows


def examples_of_first_facts(recovery: Recovery, facts: int = 2) -> list[Example]:
    """Return the saved examples of the first facts, under every prompt."""
    ids = list(dict.fromkeys(e.id for e in recovery.examples))[:facts]
    return [e for e in recovery.examples if e.id in ids]


def first_scores(study: StudyLike) -> Scores:
    """Return the scores of the original model, or without one those of the first unlearned model."""
    return study.cells[0].scores if study.before is None else study.before


def by_group(scores: Scores, *, known: bool = False) -> dict[str, int]:
    """Count the facts of each group, or with `known` those that the model answers correctly."""
    counted = [g for g, right in zip(scores.groups, scores.right.tolist(), strict=True) if right or not known]
    return {g: counted.count(g) for g in GROUPS_SHOWN if g in scores.groups}


def _cell(row: pd.Series, key: str, size: int | None) -> dict[str, Any]:
    """Format a number with its interval, a bar for a share, and a note (n facts, or the name of a control)."""
    value = row[key]
    shown = {
        "text": number(value),
        "interval": interval(row.get(f"{key}_low"), row.get(f"{key}_high")),
        "bar": None if key == "distance" else _bar(value),
        "note": "" if size is None else f"n = {size}",
    }
    of = {"net_R": "net_R_control", "excess": "excess_probe"}.get(key)
    if of and not math.isnan(value) and row.get(of):
        shown["note"] = str(row[of]).split(":")[0].replace("_", " ")
    return shown


def _control_row(control: Scores | None, columns: Sequence[Column]) -> list[dict[str, Any]] | None:
    """Format F and D of the retrained model. Its excess is zero by definition and not shown."""
    if control is None or control.values_before is None:
        return None
    rates = {
        "F": control.forgetting, "D_near": control.destruction_near, "D_far": control.destruction_far,
        "D": control.destruction, "D_trained": control.destruction_trained,
        "memorised_retention": control.memorised_retention,
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
    return {"text": number(value), "bar": _bar(value)}


def _bar(value: float) -> float | None:
    """Return the length of a bar, 0 to 1. None if the value is undefined."""
    return None if math.isnan(value) else round(min(max(value, 0.0), 1.0), 3)


def _answer(scores: Scores, fact: str) -> dict[str, Any]:
    if fact not in scores.ids:
        return {"text": "", "right": None}
    at = scores.ids.index(fact)
    return {"text": scores.generated[at], "right": bool(scores.right[at])}
