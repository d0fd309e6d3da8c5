"""Write the HTML report of a study: collect figures and tables, fill the template, embed everything in one file.

Figures are JSON in the page and are drawn when they come into view. plotly.js is embedded once. The content security
policy of the page forbids all network access, so the page is the same offline and online.
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unpact_lens.comparison import average
from unpact_lens.errors import InputError
from unpact_lens.plots import attribution as token_plots
from unpact_lens.plots import dilemma, theme
from unpact_lens.plots.figure import Figure
from unpact_lens.plots.focus import focus_shift
from unpact_lens.plots.model_diff import head_triptych, model_diff
from unpact_lens.plots.recovery import recovery_bars
from unpact_lens.plots.static_axes import plain
from unpact_lens.plots.unlearning import history_frame
from unpact_lens.report import sentences, tables
from unpact_lens.results import write_text

if TYPE_CHECKING:
    from unpact_lens.attribution import Attribution, KeyRule
    from unpact_lens.report.study_like import CellLike, StudyLike

FORGET_MAPS, RETAIN_MAPS, DIFF_MAPS = 8, 4, 3
"""Number of facts with token maps and head maps: always the first of the seed, never selected."""

HEAD = 56
"""Height in pixels above the plots of a figure, for legends and the titles of facets."""


def write_report(study: StudyLike, path: str | os.PathLike[str]) -> Path:
    """Write the report of a study as one self-contained HTML file.

    Args:
        study: A finished study.
        path: HTML file to write. Its directory is created if needed.

    Returns:
        The file.

    Raises:
        InputError: If the study has no cells, or `path` is a directory.
    """
    file = Path(path)
    if not study.cells:
        raise InputError("the study has no cells, so there is nothing to report; run at least one method")
    if file.is_dir():
        raise InputError(f"{file} is a directory; give the HTML file to write, e.g. {file / 'report.html'}")
    return write_text(file, render(study))


def render(study: StudyLike) -> str:
    """Return the report as HTML."""
    figures = Figures()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    environment.globals["number"] = sentences.number
    environment.globals["glossary"] = {column.label: column.about for column in tables.COLUMNS}
    page = environment.from_string(asset("report.html.jinja"))
    context = {
        "title": study.config.get("name", "study"),
        "headline": sentences.headline(study),
        "command": sentences.command(study),
        "config": study.config,
        "epsilon": float(study.config.get("epsilon", 0.1)),
        "groups": tables.by_group(tables.first_scores(study)),
        "known": tables.by_group(tables.first_scores(study), known=True),
        "has_before": study.before is not None,
        "duration": sentences.duration(study.seconds),
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
        dark=figures.dark,
        css=Markup(asset("report.css")),
        js=Markup(asset("report.js")),
        plotly=Markup(get_plotlyjs()),
    )


def cell_context(study: StudyLike, cell: CellLike, name: str, figures: Figures) -> dict[str, Any]:
    """Collect all that the report shows of one method and seed."""
    return {
        "name": name,
        "stopped": cell.stopped,
        "warnings": cell.warnings,
        "seconds": sentences.duration(cell.seconds),
        "settings": cell.settings,
        "recovery": figures.add(recovery_bars(cell.recovery, name=name)),
        "recovery_rows": tables.recovery_rows(cell.recovery),
        "stand_in": cell.recovery.stand_in,
        "excluded": dict(cell.recovery.excluded),
        "examples": tables.examples_of_first_facts(cell.recovery),
        "focus": None if cell.focus is None else figures.add(focus_shift(cell.focus)),
        "maps": [token_map(*pair, figures) for pair in map_pairs(cell)],
        "diffs": [
            {"heads": figures.add(head_triptych(d)), "components": figures.add(model_diff(d))}
            for d in cell.diffs[:DIFF_MAPS]
        ],
        "average": averaged_diffs(cell, figures),
        "history": figures.add(history_frame(cell.history.to_frame(), name, cell.stopped))
        if cell.history.rows
        else None,
        "generated": tables.generated_rows(study, cell),
    }


def averaged_diffs(cell: CellLike, figures: Figures) -> dict[str, Any] | None:
    """Draw the change of components and heads averaged over the facts of a cell; None with fewer than two facts.

    Where the diffs hold a noise baseline, both figures show it.
    """
    if len(cell.diffs) < 2:
        return None
    summary = average(cell.diffs)
    return {
        "facts": len(cell.diffs), "baseline": summary.floor is not None,
        "components": figures.add(summary.plot("components")), "heads": figures.add(summary.plot("heads")),
    }  # fmt: skip


def map_pairs(cell: CellLike) -> list[tuple[Attribution, Attribution, KeyRule]]:
    """Pair the attributions of the original and the unlearned model for the first facts, with their KeyTokens rule."""
    kept = [(cell.focus, FORGET_MAPS), (cell.focus_retain, RETAIN_MAPS)]
    return [
        (before, after, focus.rule)
        for focus, limit in kept
        if focus is not None
        for before, after in zip(focus.before[:limit], focus.after[:limit], strict=True)
    ]


def example_names(cell: CellLike) -> list[dict[str, str]]:
    """List the questions that have token maps, with their group."""
    n_forget = 0 if cell.focus is None else len(cell.focus.before[:FORGET_MAPS])
    return [
        {"group": "forget" if i < n_forget else "retain", "name": before.prompt}
        for i, (before, _, _) in enumerate(map_pairs(cell))
    ]


def token_map(before: Attribution, after: Attribution, rule: KeyRule, figures: Figures) -> dict[str, Any]:
    """Build the token maps of one question (original | unlearned | Δ), by prompt and answer token, with KeyTokens."""
    keys = {"before": before.key_tokens(rule), "after": after.key_tokens(rule)}
    return {
        "answer": before.answer,
        "unit": token_plots.unit(before),
        "tokens": Markup(token_plots.html_triptych(before, after)),
        "figure": figures.add(token_plots.token_triptych(before, after)),
        "log_prob": (sentences.number(before.log_prob), sentences.number(after.log_prob)),
        "key_tokens": {name: list(key.words or key.tokens) for name, key in keys.items()},
    }


class Figures:
    """Collect the figures of a page as JSON that is safe inside a `<script>` element."""

    def __init__(self) -> None:
        self._json: list[str] = []

    def add(self, figure: Figure) -> dict[str, Any]:
        """Add a figure without its title, which the page shows as text that wraps.

        Returns:
            `id` of the script element, `height` in pixels, `title`, `subtitle`, and `alt`, the text that stands for it.
        """
        title, top = figure.layout.title, int(figure.layout.margin.t or 100)
        height = (figure.layout.height or 450) - max(0, top - HEAD)
        data = json.loads(str(figure.to_json()))
        data["layout"].pop("title", None)
        data["layout"].pop("meta", None)
        data["layout"] |= {"height": height, "margin": {**data["layout"].get("margin", {}), "t": HEAD}}
        self._json.append(in_script(json.dumps(data, ensure_ascii=False, separators=(",", ":"))))
        return {
            "id": f"figure-{len(self._json) - 1}", "height": height, "title": plain(title.text or ""),
            "subtitle": plain(title.subtitle.text or ""), "alt": figure.alt,
        }  # fmt: skip

    @property
    def scripts(self) -> list[tuple[str, Markup]]:
        """Return id and JSON of each figure."""
        return [(f"figure-{i}", Markup(text)) for i, text in enumerate(self._json)]

    @property
    def dark(self) -> Markup:
        """Return pairs of texts in the JSON of figures, and what stands for them on a dark page, as JSON."""
        scales = ((theme.DIVERGING, theme.DIVERGING_DARK), (theme.SEQUENTIAL, theme.SEQUENTIAL_DARK))
        pairs = [[json.dumps(scale, separators=(",", ":")) for scale in pair] for pair in scales]
        pairs += [[json.dumps(light), json.dumps(dark)] for light, dark in theme.TO_DARK.items()]
        return Markup(in_script(json.dumps(pairs)))


def in_script(text: str) -> str:
    r"""Escape the characters of JSON that could end a `<script>` element.

    >>> in_script('{"a": "</script>&"}')
    '{"a": "\\u003c/script\\u003e\\u0026"}'
    """
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def asset(name: str) -> str:
    """Read a file of the report that is shipped with the package."""
    return (resources.files("unpact_lens.report") / "assets" / name).read_text(encoding="utf-8")


def _named(study: StudyLike) -> list[tuple[CellLike, str]]:
    return list(zip(study.cells, sentences.labels_of(study.cells), strict=True))
