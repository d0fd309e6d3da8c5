"""Print tables and coloured tokens on the terminal.

All text of users and models is shown as text: markup is not read, control characters are visible, and characters that
the terminal cannot show are replaced.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unpact_lens.errors import InputError
from unpact_lens.text_tables import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["table", "json", "markdown", "latex"]
"""How a table is printed: for a terminal, as JSON records, or as text for a paper."""

PIPE_WIDTH = 160
"""Width of a table where stdout is no terminal and COLUMNS is not set."""

LEAST_FIRST, LEAST_LABEL = 24, 14
"""Narrowest first column, and narrowest other column of text, in cells; longer text is wrapped."""

ASCII = {
    "Δ": "d", "−": "-", "–": "-", "—": "-", "…": "~", "→": ">", "␣": "_", "·": ".", "×": "x", "≈": "~",
    "≤": "<", "≥": ">", "σ": "s", "’": "'", "“": '"', "”": '"', "⏎": "$",
}  # fmt: skip
"""Characters of our own texts for terminals without Unicode; each is one cell wide."""


def form_of(*, as_json: bool = False, markdown: bool = False, latex: bool = False) -> Form:
    """Return the form that the options ask for.

    Raises:
        InputError: If more than one is given.
    """
    if markdown + latex + as_json > 1:
        raise InputError("--markdown, --latex and --json exclude each other; give one of them")
    return "json" if as_json else "markdown" if markdown else "latex" if latex else "table"


def one_line(text: str) -> str:
    r"""Return a text in one line, with control characters made visible.

    >>> one_line("a\nb\x1b[31m")
    'a b\\x1b[31m'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def printable(text: str) -> str:
    """Return a text that the terminal can show: control characters visible, unknown characters replaced."""
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        shown.encode(encoding)
    except UnicodeEncodeError:
        own = "".join(ASCII.get(c, c) for c in shown)
        return own.encode(encoding, "backslashreplace").decode(encoding)
    return shown


def print_json(value: object) -> None:
    """Print a value as JSON on stdout. Undefined numbers are null."""
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False)
    # What the terminal cannot show is escaped as JSON does it.
    typer.echo(text if printable(text) == text else json.dumps(plain, indent=1, allow_nan=False))


def print_line(text: str, style: str = "") -> None:
    """Print a line of text on stdout, wrapped at the width of the terminal."""
    _console().print(Text(printable(text), style=style))


def print_table(frame: pd.DataFrame, form: Form = "table", title: str | None = None, keep: Sequence[str] = ()) -> None:
    """Print a table on stdout.

    Args:
        frame: Table to print, its columns ordered by importance. Markdown and LaTeX show its index if that has a name;
            the other forms do not.
        form: `"table"` for a terminal, `"json"` for one record per row, `"markdown"` or `"latex"` for a paper.
        title: Title above the table, on a terminal only.
        keep: Columns that a narrow terminal shows before the others.
    """
    if form in ("markdown", "latex"):
        typer.echo(printable(to_markdown(frame) if form == "markdown" else to_latex(frame)), nl=False)
    elif form == "json":
        print_json(frame.to_dict("records"))
    else:
        console = _console()
        if title:
            console.print(Text(printable(title), style="italic"))
        columns, dropped = fitted(_columns(frame), console.width, keep)
        console.print(_table(columns))
        if dropped:
            names = ", ".join(dropped)
            noun = "column" if len(dropped) == 1 else "columns"
            print_line(f"no room for the {noun} {names} at width {console.width}; --json prints all", style="dim")


class Column:
    """Hold a column of a table as text.

    Args:
        name: Heading.
        cells: Text of each row.
        numeric: True for numbers: right-aligned and never wrapped.
    """

    def __init__(self, name: str, cells: Sequence[str], numeric: bool) -> None:
        self.name, self.cells, self.numeric = name, list(cells), numeric
        self.natural = max((cell_len(line) for text in (name, *cells) for line in text.split("\n")), default=1)
        self.least = self.natural if numeric else min(self.natural, max(LEAST_LABEL, cell_len(name)))
        self.width = self.natural


def fitted(columns: Sequence[Column], width: int, keep: Sequence[str] = ()) -> tuple[list[Column], list[str]]:
    """Choose the columns that fit a width, and how wide each is.

    Text is wrapped first. Then columns are dropped from the right. The first column always stays.

    Args:
        columns: Columns, ordered by importance.
        width: Width of the terminal, cells.
        keep: Names of columns that are dropped last.

    Returns:
        The columns that are shown, with their widths set, and the names of the others.
    """
    kept, dropped = list(columns), []
    if kept and not kept[0].numeric:
        kept[0].least = max(kept[0].least, min(kept[0].natural, LEAST_FIRST))
    while len(kept) > 1 and sum(c.least for c in kept) + 3 * len(kept) + 1 > width:
        last = next((c for c in kept[:0:-1] if c.name not in keep), kept[-1])
        kept.remove(last)
        dropped.append(last.name)
    room = width - 3 * len(kept) - 1
    spare = max(0, room - sum(c.least for c in kept))
    for column in kept:
        column.width = column.least
    # The rest of the room goes to the texts, evenly, until each fits.
    while spare and (short := [c for c in kept if c.width < c.natural]):
        for column in short[:spare]:
            column.width += 1
        spare -= len(short[:spare])
    if len(kept) == 1:
        kept[0].width = min(kept[0].natural, max(1, room))
    return kept, dropped[::-1]


def _columns(frame: pd.DataFrame) -> list[Column]:
    """Return the columns as text. The two ends of an interval stand in the column of their number."""
    merged, names = {}, [str(name) for name in frame.columns]
    for name in names:
        base = name[: -len("low")].rstrip(" _") if name.endswith("low") else None
        if base is None:
            continue
        high = name[: -len("low")] + "high"
        value = base or names[max(0, names.index(name) - 1)]
        if high in names and value in names and value not in (name, high):
            merged[value] = (name, high)
    gone = {end for ends in merged.values() for end in ends}
    columns = []
    for i, name in enumerate(names):
        if name in gone:
            continue
        values = frame.iloc[:, i].tolist()
        numeric = frame.dtypes.iloc[i].kind in "fiu"
        if name in merged:
            ends = [frame.iloc[:, names.index(end)].tolist() for end in merged[name]]
            cells = [_interval(*row) for row in zip(values, *ends, strict=True)]
        else:
            cells = [printable(_cell(value)) for value in values]
        columns.append(Column(printable(name), cells, numeric))
    return columns


def _table(columns: Sequence[Column]) -> Table:
    table = Table(header_style="bold", box=box.ROUNDED, pad_edge=True)
    for column in columns:
        table.add_column(
            Text(column.name), justify="right" if column.numeric else "left", width=column.width, overflow="fold",
            no_wrap=column.numeric,
        )  # fmt: skip
    for row in zip(*(c.cells for c in columns), strict=True):
        table.add_row(*(Text(cell) for cell in row))
    return table


def number(value: float, digits: int = 3) -> str:
    """Write a number: three decimals, small and large ones in scientific notation, `–` if it is undefined.

    >>> [number(v) for v in (0.5, 1e-4, -3.2e-5, 0.0, 1234.5, 2e9, float("nan"))]
    ['0.500', '1.0e-04', '-3.2e-05', '0', '1234.5', '2.0e+09', '–']
    """
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if math.isinf(value) or abs(value) >= 1e6 or abs(value) < 10.0**-digits:
        return f"{value:.1e}"
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def _interval(value: object, low: object, high: object) -> str:
    """Write a number with its interval."""
    if not isinstance(value, float) or math.isnan(value):
        return printable(_cell(value))
    if not isinstance(low, float) or not isinstance(high, float) or math.isnan(low) or math.isnan(high):
        return number(value)
    ends = [f"{end:.2f}" if abs(end) < 1000 else number(end) for end in (value, low, high)]
    return f"{ends[0]} [{ends[1]}, {ends[2]}]"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{k}={_cell(v)}" for k, v in value.items())
    return "" if value is None else str(value)


def _plain(value: object) -> object:
    """Return a value that JSON holds."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _console() -> Console:
    """Return the console of stdout: as wide as the terminal or COLUMNS, without markup, emoji and highlighting."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(
        width=None if known else PIPE_WIDTH, markup=False, emoji=False, highlight=False, soft_wrap=False,
        legacy_windows=False,
    )  # fmt: skip


def in_colour() -> bool:
    """Return whether the terminal shows colours."""
    return _console().color_system is not None


def print_tokens(tokens: Sequence[str], rows: Mapping[str, Sequence[float]], unit: str) -> None:
    """Print tokens as a coloured line for each row of scores, all on one symmetric scale, if there are colours.

    Args:
        tokens: Text of the tokens.
        rows: Scores of the tokens, by the label of the line. An empty label is not shown.
        unit: Unit of the scores.
    """
    console = _console()
    if console.color_system is None:
        return
    from unpact_lens.plots.theme import diverging_colour, symmetric_limit

    limit = symmetric_limit(rows.values())
    margin = max(cell_len(label) for label in rows) + 2 if any(rows) else 0
    for label, scores in rows.items():
        lines, used = [Text()], 0
        for token, score in zip(tokens, scores, strict=True):
            shown = printable(token.replace("\n", "⏎").replace("\t", " "))
            colour, ink = diverging_colour(float(score), limit)
            if used and used + cell_len(shown) > console.width - margin:
                lines.append(Text())
                used = 0
            lines[-1].append(shown, style=f"{ink} on {colour.replace(' ', '')}")
            used += cell_len(shown)
        for k, line in enumerate(lines):
            console.print(Text(printable(label if k == 0 else "").ljust(margin)) + line, no_wrap=True, overflow="fold")
    scale = Text(printable(f"{' ' * margin}{number(-limit)} "))
    for step in range(-6, 7):
        colour, ink = diverging_colour(step * limit / 6, limit)
        scale.append("  ", style=f"{ink} on {colour.replace(' ', '')}")
    console.print(scale + Text(printable(f" {number(limit)} {unit}")))
