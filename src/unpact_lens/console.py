"""Print tables on the terminal and read NAME=VALUE options, for the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
import yaml
from rich.console import Console
from rich.table import Table

from unpact_lens.errors import InputError
from unpact_lens.text_tables import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.results import Result

Form = Literal["table", "json", "markdown", "latex"]
"""How a table is printed: for a terminal, as JSON records, or as text for a paper."""


def form_of(*, as_json: bool = False, markdown: bool = False, latex: bool = False) -> Form:
    """Return the form that the options ask for.

    Raises:
        InputError: If more than one is given.
    """
    if markdown + latex + as_json > 1:
        raise InputError("--markdown, --latex and --json exclude each other; give one of them")
    return "json" if as_json else "markdown" if markdown else "latex" if latex else "table"


def show(result: Result, out: Path | None, as_json: bool, title: str) -> None:
    """Print the table of a result, and save the result if a directory is given.

    Args:
        result: Result to print.
        out: Directory to save it to, or None.
        as_json: Print JSON instead of a table.
        title: Title above the table.
    """
    print_table(result.to_frame(), form_of(as_json=as_json), title)
    save(result, out)


def save(result: Result, out: Path | None) -> None:
    """Save a result if a directory is given, and print the directory on stderr."""
    if out is not None:
        typer.echo(result.save(out), err=True)


def print_table(frame: pd.DataFrame, form: Form = "table", title: str | None = None) -> None:
    """Print a table on stdout.

    Args:
        frame: Table to print. Markdown and LaTeX show its index if that has a name; the other forms do not.
        form: `"table"` for a terminal, `"json"` for one record per row, `"markdown"` or `"latex"` for a paper.
        title: Title above the table, on a terminal only.
    """
    if form in ("markdown", "latex"):
        typer.echo(to_markdown(frame) if form == "markdown" else to_latex(frame), nl=False)
    elif form == "json":
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records")), ensure_ascii=False, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(_terminal_table(frame, title))


def _terminal_table(frame: pd.DataFrame, title: str | None) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "fi"
        table.add_column(str(column), justify="right" if numeric else "left", no_wrap=numeric)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}" if abs(value) >= 1000 else f"{value:.3f}"
    return str(value)


def read_settings(pairs: list[str] | None) -> dict[str, Any]:
    """Read `NAME=VALUE` options. Values are YAML scalars or numbers such as 1e-4.

    Raises:
        InputError: If an option has no name or no `=`.

    >>> read_settings(["lr=1e-4", "phrasings=all", "steps=20"])
    {'lr': 0.0001, 'phrasings': 'all', 'steps': 20}
    """
    settings: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--set {pair!r} is not NAME=VALUE, e.g. --set lr=1e-4")
        try:
            settings[name] = float(text) if "e" in text.lower() else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError):
            settings[name] = text
    return settings


def read_ranges(pairs: list[str] | None) -> dict[str, tuple[float, float]] | None:
    """Read `NAME=LOW..HIGH` options as a search space, with integers if both ends are integers.

    Returns:
        Both ends by name. None without options.

    Raises:
        InputError: If an option is not of that form.

    >>> read_ranges(["lr=1e-5..1e-3", "steps=10..40"])
    {'lr': (1e-05, 0.001), 'steps': (10, 40)}
    """
    space: dict[str, tuple[float, float]] = {}
    for name, text in read_settings(pairs).items():
        low, _, high = str(text).partition("..")
        try:
            space[name] = _end(low), _end(high)
        except ValueError:
            raise InputError(f"--range {name}={text} is not NAME=LOW..HIGH, e.g. --range lr=1e-5..1e-3") from None
    return space or None


def _end(text: str) -> float:
    return float(text) if set("e.") & set(text.lower()) else int(text)
