"""How the command line prints results and reads settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from unpact_lens.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.results import Result


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """One progress bar on stderr for each name it is told of."""
    with Progress(console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)

        yield told


def show(result: Result, out: Path | None, as_json: bool, title: str) -> None:
    """Print a result's table, and save the result where a directory is given."""
    print_table(result.to_frame(), as_json, title)
    if out is not None:
        typer.echo(result.save(out), err=True)


def print_table(frame: pd.DataFrame, as_json: bool, title: str | None) -> None:
    """Print a table for a reader, or its rows as JSON for a machine."""
    if as_json:
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records")), ensure_ascii=False, indent=1))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "fi"
        table.add_column(str(column), justify="right" if numeric else "left", no_wrap=numeric)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(v) for v in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}" if abs(value) >= 1000 else f"{value:.3f}"
    return str(value)


def read_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`["lr=1e-4", "phrasings=all"]` as a dict; values are read as YAML scalars, numbers like 1e-4 included."""
    import yaml

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


def read_ranges(pairs: list[str] | None) -> dict[str, tuple[float | int, float | int]] | None:
    """`["lr=1e-5..1e-3", "steps=10..40"]` as a search space; whole numbers where both ends are."""
    space = {}
    for name, text in read_settings(pairs).items():
        low, dots, high = str(text).partition("..")
        try:
            ends = tuple(float(end) if set("e.") & set(end.lower()) else int(end) for end in (low, high))
        except ValueError:
            dots = ""
        if not dots:
            raise InputError(f"--range {name}={text} is not NAME=LOW..HIGH, e.g. --range lr=1e-5..1e-3")
        space[name] = (ends[0], ends[1])
    return space or None
