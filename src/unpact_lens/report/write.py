"""Write the report: collect figures and tables, fill the template, embed everything in one file.

Figures are JSON in the page and drawn when they come into view; plotly.js is embedded once. The page forbids itself
all network access (its content security policy), so what is read offline is what is read online.
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unpact_lens.errors import InputError
from unpact_lens.plots import attribution as token_plots
from unpact_lens.plots import dilemma
from unpact_lens.plots.comparison import head_triptych, model_diff
from unpact_lens.plots.focus import focus_shift
from unpact_lens.plots.recovery import recovery_bars
from unpact_lens.plots.unlearning import history_frame
from unpact_lens.report import tables, words
from unpact_lens.results import write_text

FORGET_MAPS, RETAIN_MAPS, DIFF_MAPS = 8, 4, 3
"""How many facts have token maps and head maps: the first of the seed, never chosen."""


@runtime_checkable
class StudyLike(dilemma.StudyLike, Protocol):
    """What the report reads of a study; `unpact_lens.study.Study` has it."""

    # ruff: noqa: D102
    @property
    def before(self) -> Any: ...

    @property
    def cells(self) -> tuple[Any, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def seconds(self) -> float: ...

    @property
    def environment(self) -> dict[str, Any]: ...


def write_report(study: StudyLike, path: str | os.PathLike[str]) -> Path:
    """Write one self-contained HTML file: what was found, how it was found, and what to beware of.

    Args:
        study: a finished study.
        path: the file; its directory is made if it does not exist.

    Returns:
        The file.

    Raises:
        InputError: if the study has no cells, or `path` is a directory.
    """
    file = Path(path)
    if not study.cells:
        raise InputError("the study has no cells, so there is nothing to report; run at least one method")
    if file.is_dir():
        raise InputError(f"{file} is a directory; give the HTML file to write, e.g. {file / 'report.html'}")
    return write_text(file, render(study))


def render(study: StudyLike) -> str:
    """The report's HTML."""
    figures = Figures()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    environment.globals["number"] = words.number
    page = environment.from_string(asset("report.html.jinja"))
    context = {
        "title": study.config.get("name", "study"),
        "headline": words.headline(study),
        "command": words.command(study),
        "config": study.config,
        "epsilon": float(study.config.get("epsilon", 0.1)),
        "groups": tables.by_group(study.before),
        "known": tables.by_group(study.before, known=True),
        "duration": words.duration(study.seconds),
        "environment": study.environment,
        "has_control": study.control is not None,
        "verdicts": tables.verdict_table(study),
        "verdict_rules": tables.VERDICTS,
        "scores": tables.scores_table(study),
        "plane": figures.add(dilemma.dilemma_plane(study)),
        "cells": [cell_context(study, cell, name, figures) for cell, name in _named(study)],
        "maps": example_names(study.cells[0]),
        "diffs": [{"name": d.prompt} for d in study.cells[0].diffs[:DIFF_MAPS]],
        "notes": study.notes,
        "config_text": json.dumps(study.config, indent=2, ensure_ascii=False),
    }
    return page.render(
        **context,
        figures=figures.scripts,
        css=Markup(asset("report.css")),
        js=Markup(asset("report.js")),
        plotly=Markup(get_plotlyjs()),
    )


def cell_context(study: StudyLike, cell: Any, name: str, figures: Figures) -> dict[str, Any]:
    """Everything that the report shows of one method and seed."""
    return {
        "name": name,
        "stopped": cell.stopped,
        "seconds": words.duration(cell.seconds),
        "settings": cell.settings,
        "recovery": figures.add(recovery_bars(cell.recovery, name=name)),
        "recovery_rows": tables.recovery_rows(cell.recovery),
        "stand_in": cell.recovery.stand_in,
        "excluded": dict(cell.recovery.excluded),
        "examples": tables.first_per_probe(cell.recovery),
        "focus": figures.add(focus_shift(cell.focus)),
        "maps": [token_map(*pair, figures) for pair in map_pairs(cell)],
        "diffs": [
            {"heads": figures.add(head_triptych(d)), "components": figures.add(model_diff(d))}
            for d in cell.diffs[:DIFF_MAPS]
        ],
        "history": figures.add(history_frame(cell.history.to_frame(), name, cell.stopped)),
        "generated": tables.generated_rows(study, cell),
    }


def map_pairs(cell: Any) -> list[tuple[Any, Any, Any]]:
    """Attributions before and after of the first forget and retain facts, with the rule of their KeyTokens."""
    kept = [(cell.focus, FORGET_MAPS), (cell.focus_retain, RETAIN_MAPS)]
    return [
        (before, after, focus.rule)
        for focus, limit in kept
        if focus is not None
        for before, after in zip(focus.before[:limit], focus.after[:limit], strict=True)
    ]


def example_names(cell: Any) -> list[dict[str, str]]:
    """The questions whose token maps are shown, with their group."""
    n_forget = len(cell.focus.before[:FORGET_MAPS])
    return [
        {"group": "forget" if i < n_forget else "retain", "name": before.prompt}
        for i, (before, _, _) in enumerate(map_pairs(cell))
    ]


def token_map(before: Any, after: Any, rule: Any, figures: Figures) -> dict[str, Any]:
    """One question: inline tokens before | after | Δ, the same by answer token, and the KeyTokens of both."""
    keys = {"before": before.key_tokens(rule), "after": after.key_tokens(rule)}
    return {
        "answer": before.answer,
        "unit": token_plots.unit(before),
        "tokens": Markup(token_plots.html_triptych(before, after)),
        "figure": figures.add(token_plots.token_triptych(before, after)),
        "log_prob": (words.number(before.log_prob), words.number(after.log_prob)),
        "key_tokens": {name: list(key.words or key.tokens) for name, key in keys.items()},
    }


class Figures:
    """The figures of a page, as JSON that no text inside can break out of."""

    def __init__(self) -> None:
        self._json: list[str] = []

    def add(self, figure: go.Figure) -> dict[str, Any]:
        """Keep a figure; gives the `id` under which the page finds it, and its height in pixels."""
        self._json.append(in_script(figure.to_json()))
        return {"id": f"figure-{len(self._json) - 1}", "height": figure.layout.height or 450}

    @property
    def scripts(self) -> list[tuple[str, Markup]]:
        """Id and JSON of each figure."""
        return [(f"figure-{i}", Markup(text)) for i, text in enumerate(self._json)]


def in_script(text: str) -> str:
    r"""JSON that can stand in a `<script>` element: the characters that could end it are written as escapes.

    >>> in_script('{"a": "</script>&"}')
    '{"a": "\\u003c/script\\u003e\\u0026"}'
    """
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def asset(name: str) -> str:
    """A file of the report that is shipped with the package."""
    return (resources.files("unpact_lens.report") / "assets" / name).read_text(encoding="utf-8")


def _named(study: StudyLike) -> list[tuple[Any, str]]:
    return list(zip(study.cells, words.labels_of(study.cells), strict=True))
