"""Define `Figure`, a plotly figure that shows and saves itself, and finish what every figure needs."""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import numpy as np
import plotly.graph_objects as go

from unpact_lens.errors import InputError
from unpact_lens.plots import theme
from unpact_lens.plots.static_axes import listed, number, plain, spec
from unpact_lens.plots.static_style import DRAWN, undrawn

if TYPE_CHECKING:
    from unpact_lens.plots.drawing import Drawing

P = ParamSpec("P")

TALLEST = 900
"""Largest default height in pixels."""

NUMBERED = 40
"""Largest number of cells of a map that shows its numbers."""

DENSE = 40
"""Rows or columns from which a map has no gaps between cells."""

WIDE = 880
"""Width in pixels of a wide figure in a notebook. A narrow cell scrolls it; all others are as wide as the cell."""

LINE, TITLE_LINE = 46, 36
"""Characters of a line of a subtitle and of a title: what a cell of JupyterLab holds in a window of 420 pixels."""

ROOM = 130
"""Least height of the subplots in pixels for five ticks on a colour bar, below its title."""

TITLE_PAD = 14
"""Pixels above a title of one line, as in the template."""

_mode = ["light"]


def set_theme(mode: str) -> None:
    """Set the colours of all figures made from now on.

    Args:
        mode: `"light"` or `"dark"`.

    Raises:
        InputError: If the mode is another one.
    """
    if mode not in ("light", "dark"):
        raise InputError(f"mode={mode!r}; give 'light' or 'dark'")
    _mode[0] = mode


class Figure(go.Figure):
    """Hold a plotly figure that shows itself in every notebook, offline, and saves itself.

    A notebook gets two forms in one bundle: the interactive figure, and an SVG for front ends without plotly, such as
    GitHub, Colab and `nbconvert`. No form needs the network or a browser.
    """

    @property
    def alt(self) -> str:
        """Text that stands for the figure where it is not seen: title, subtitle and what is drawn."""
        return str(spec(self.layout.meta).get("alt", ""))

    def save(self, path: str | os.PathLike[str], *, width: int | None = None, kaleido: bool | None = None) -> Path:
        """Write the figure as a file, of the kind that the name ends with.

        `.html` is interactive and holds all that it needs. `.svg` and `.png` are drawn by this package unless kaleido
        is asked for. `.pdf` needs kaleido.

        Args:
            path: File to write: `.html`, `.svg`, `.png` or `.pdf`.
            width: Width in pixels. If None, 900. A PNG has two pixels for each.
            kaleido: If True, kaleido and Chrome draw the file, as plotly shows it. If None, only a PDF is drawn so.

        Returns:
            The file.

        Raises:
            InputError: If the kind of file is unknown, kaleido or Chrome is needed and missing, or the figure has
                traces that only plotly.js draws.
        """
        file = Path(path)
        kind = file.suffix.lower().removeprefix(".")
        if kind not in ("html", "svg", "png", "pdf"):
            raise InputError(f"cannot save a figure as {file.name!r}; end the name in .html, .svg, .png or .pdf")
        if file.is_dir():
            raise InputError(f"{file} is a directory; give a file, e.g. {file / f'figure.{kind}'}")
        if kind == "html":
            return _write(file, self.to_html(include_plotlyjs=True, config={"displaylogo": False}).encode())
        if kaleido or (kind == "pdf" and kaleido is None):
            return _write(file, self._by_kaleido(kind, width))
        if kind == "pdf":
            raise InputError("a PDF is drawn by kaleido only; leave kaleido out, or save as .svg")
        return _write(file, self.svg(width=width).encode() if kind == "svg" else self.png(width=width))

    def _by_kaleido(self, kind: str, width: int | None) -> bytes:
        """Draw the figure with kaleido.

        Raises:
            InputError: If kaleido or Chrome is missing. The message says how to get them.
        """
        try:
            made: bytes = self.to_image(format=kind, width=width or 900, scale=2 if kind == "png" else 1)
        except (ValueError, RuntimeError, ImportError) as error:
            raise InputError(
                f'a {kind} by kaleido needs kaleido and Chrome: pip install "unpact-lens[image]", then run '
                "plotly_get_chrome; .html, .svg and .png need neither "
                f"({textwrap.shorten(' '.join(str(error).split()), 120)})"
            ) from None
        return made

    def svg(self, *, width: int | None = None) -> str:
        """Return the figure as an SVG document, drawn without a browser.

        Raises:
            InputError: If the figure has traces that only plotly.js draws.
        """
        return self._drawing(width).svg()

    def png(self, *, width: int | None = None) -> bytes:
        """Return the figure as a PNG, drawn without a browser.

        Raises:
            InputError: If the figure has traces that only plotly.js draws.
        """
        return self._drawing(width).png()

    def _drawing(self, width: int | None) -> Drawing:
        from unpact_lens.plots.static import draw

        if missing := self._left_out():
            raise InputError(
                f"a picture drawn without a browser shows no {', '.join(missing)}; it shows "
                f"{', '.join(sorted(DRAWN))}; give kaleido=True, or save the figure as .html"
            )
        return draw(self, width)

    def dark(self) -> Figure:
        """Return the figure in the colours of a dark page."""
        data = self.to_plotly_json()
        made = Figure(theme.darkened(data["data"]), theme.darkened(data["layout"]))
        made.update_layout(paper_bgcolor=theme.DARK.paper, plot_bgcolor=theme.DARK.paper)
        return made

    def img(self) -> str:
        """Return the figure as an HTML image with its alternative text. It holds its own data."""
        data = base64.b64encode(self.png()).decode()
        return (
            f'<img alt="{html.escape(self.alt)}" style="max-width:100%;height:auto" width="{self.layout.width or 900}" '
            f'src="data:image/png;base64,{data}">'
        )

    def _repr_html_(self) -> str:
        return html.escape(self.alt) if self._left_out() else self.img()

    def _left_out(self) -> list[str]:
        """Return what a static picture would leave out."""
        return undrawn(self.to_plotly_json())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None, **_: object) -> dict[str, object]:
        """Return the interactive figure and an SVG, without the SVG where it would leave traces out.

        The picture is no PNG: plotly's extension of JupyterLab would show it in place of the figure, at twice its size,
        until the pointer is on it.
        """
        interactive = json.loads(str(self.to_json()))
        if _is_wide(self) and not self.layout.width:
            interactive["layout"]["width"] = WIDE
        picture = {} if undrawn(interactive) else {"image/svg+xml": self.svg()}
        return {"application/vnd.plotly.v1+json": _slim(interactive), **picture, "text/plain": self.alt}

    def _ipython_display_(self) -> None:
        """Show the bundle as it is. IPython would else add `_repr_html_`, the same picture again."""
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)


def _is_wide(fig: go.Figure) -> bool:
    """Tell whether a figure is a table, or has subplots side by side or two columns of labels."""
    if any(trace.type == "table" for trace in fig.data):
        return True
    starts = {float(axis.domain[0]) for axis in fig.select_xaxes() if axis.domain}
    return len(starts) > 1 or any(
        trace.type == "bar" and any(isinstance(part, (list, tuple, np.ndarray)) for part in listed(trace.y))
        for trace in fig.data
    )


def _slim(part: object) -> object:
    """Return a figure as JSON with arrays of 32 instead of 64 bits; hover shows fewer digits than those hold."""
    if isinstance(part, dict):
        if part.get("dtype") == "f8":
            values = np.frombuffer(base64.b64decode(part["bdata"]), dtype=np.float64).astype(np.float32)
            return {**part, "dtype": "f4", "bdata": base64.b64encode(values.tobytes()).decode()}
        return {k: _slim(v) for k, v in part.items()}
    return [_slim(v) for v in part] if isinstance(part, list) else part


def _write(file: Path, data: bytes) -> Path:
    """Write a binary file atomically."""
    from unpact_lens.writing import replaced_file

    with replaced_file(file) as new:
        new.write_bytes(data)
    return file


def finished(function: Callable[P, go.Figure]) -> Callable[P, Figure]:
    """Give what a function draws the properties that every figure of this package has; see `finish`."""

    @functools.wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        return finish(function(*args, **kwargs))

    return drawn


def finish(fig: go.Figure) -> Figure:
    """Finish a figure: map cells, colour bars, ranges, title lines, height, alternative text.

    Maps of at most 40 cells show their numbers. Maps of more than 40 rows or columns have no gaps. Axes of a map end at
    its edges. A colour bar has ticks at both ends. No figure is taller than 900 pixels, and no title is cut in a
    window of 420.
    """
    if isinstance(fig, Figure) and fig.alt:  # a figure that another function of this package has finished
        return fig
    made = fig if isinstance(fig, Figure) else Figure(fig)
    _finish_maps(made)
    _finish_colour_bars(made)
    _finish_head(made)
    height = number(made.layout.height, 450)
    made.update_layout(height=min(height, TALLEST) if made.layout.height else None)
    made.update_layout(meta={"alt": describe(made)})
    return made.dark() if _mode[0] == "dark" else made


def _finish_maps(fig: Figure) -> None:
    """Set gaps, numbers and the ranges of the axes of all maps."""
    maps = [t for t in fig.data if t.type == "heatmap" and t.z is not None and len(t.z)]
    facets = len({t.xaxis or "x" for t in maps})
    dotted = any(t.type == "scatter" and t.mode == "markers" and len(listed(t.x)) for t in fig.data)
    for axis in fig.select_yaxes({"showticklabels": False}):
        axis.ticks = ""  # they would lie on the map to the left in a narrow figure
    for trace in maps:
        rows, columns = len(trace.z), len(trace.z[0])
        dense = max(rows, columns * facets) > DENSE
        trace.xgap = trace.ygap = 0 if dense else 1
        few = rows * columns <= NUMBERED and columns * facets <= 24
        if trace.texttemplate is None and few and not dotted:  # a dot would lie on the number
            limit = number(fig.layout[trace.coloraxis].cmax, 1.0) if trace.coloraxis else 1.0
            trace.texttemplate = f"%{{z:{_digits(limit)}}}"
        for letter, n in (("x", columns), ("y", rows)):
            axis = fig.layout[f"{letter}axis{(getattr(trace, f'{letter}axis') or letter)[1:]}"]
            values = listed(getattr(trace, letter))
            if axis.type != "category" and all(not isinstance(v, str) for v in values) and axis.range is None:
                ends = [-0.5, n - 0.5]
                axis.update(range=ends[::-1] if axis.autorange == "reversed" else ends, autorange=None)


def _digits(limit: float) -> str:
    """Return the format of numbers in cells: two or three significant digits at the end of the scale.

    >>> [_digits(v) for v in (250.0, 30.0, 2.0, 0.04, 1e-5)]
    ['.0f', '.1f', '.2f', '.3f', '.0e']
    """
    steps = ((100, ".0f"), (10, ".1f"), (0.1, ".2f"), (0.01, ".3f"))
    return next((style for least, style in steps if limit >= least), ".0e")


def _finish_colour_bars(fig: Figure) -> None:
    """Put ticks on every colour bar: the ends, the middle and, where there is room, the quarters."""
    margin = fig.layout.margin
    room = number(fig.layout.height, 450) - number(margin.t, 100) - number(margin.b, 64)
    for name in fig.layout:
        if not str(name).startswith("coloraxis"):
            continue
        axis = fig.layout[name]
        low, high = number(axis.cmin), number(axis.cmax)
        if low != low or high != high or axis.colorbar.tickvals is not None:
            continue
        ticks = np.linspace(low, high, 5 if room >= ROOM else 3)
        style = _digits(max(abs(low), abs(high)))
        texts = [f"{tick:{style}}".replace("-", "−") for tick in ticks.tolist()]
        axis.colorbar.update(tickvals=ticks.tolist(), ticktext=texts, nticks=None)


def _finish_head(fig: Figure) -> None:
    """Break title and subtitle into lines that a narrow page holds, and make room for them."""
    title = fig.layout.title
    lines = _broken(str(title.text or ""), TITLE_LINE), _broken(str(title.subtitle.text or ""), LINE)
    title.text = "<br>".join(lines[0])
    title.subtitle.text = "<br>".join(lines[1])
    if len(lines[0]) > 1:  # plotly.js sets a title of several lines 0.7 em higher than one of a single line
        title.pad.t = TITLE_PAD + round(0.7 * number(title.font.size, 16))
    extra = 20 * (len(lines[0]) - 1) + 15 * (max(len(lines[1]), 1) - 1)
    if extra > 0:
        top = number(fig.layout.margin.t, 100) + extra
        fig.update_layout(margin={"t": top})
        if fig.layout.height:
            fig.update_layout(height=fig.layout.height + extra)


def _broken(text: str, limit: int) -> list[str]:
    """Break an escaped text into lines; a number stays with its interval or unit, and entities hold no blank."""
    held = re.sub(r" ?\[[^][]{1,24}\]", lambda found: found[0].replace(" ", "\0"), text.replace("<br>", " "))
    lines = textwrap.wrap(held, limit, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines] or [""]


def describe(fig: go.Figure) -> str:
    """Describe a figure in words: title, subtitle, and the extent of what is drawn."""
    title = fig.layout.title
    parts = [plain(title.text or ""), plain(title.subtitle.text or "")]
    maps = [t for t in fig.data if t.type == "heatmap" and t.z is not None and len(t.z)]
    for trace in maps[:1]:
        z = theme.array([listed(row) for row in trace.z])
        if np.isfinite(z).any():
            at = np.unravel_index(int(np.nanargmax(np.abs(np.where(np.isfinite(z), z, 0.0)))), z.shape)
            place = f"row {_place(trace.y, int(at[0]))}, column {_place(trace.x, int(at[1]))}"
            parts.append(f"A map of {z.shape[0]} by {z.shape[1]} cells; the largest is {z[at]:+.3g} at {place}")
    others = [plain(t.name) for t in fig.data if t.type != "heatmap" and t.name]
    if others:
        parts.append("Shown: " + ", ".join(dict.fromkeys(others)))
    return ". ".join(part.rstrip(".") for part in parts if part) + "."


def _place(values: object, index: int) -> str:
    names = listed(values)
    return plain(names[index]) if index < len(names) else str(index)
