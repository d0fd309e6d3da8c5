"""Define how every figure looks, and what all figures share: escaped labels, one symmetric scale, error bars.

The categorical colours are Okabe and Ito's, which can be distinguished under every common colour blindness. The
diverging scale runs from vermilion (negative) over white (zero) to blue (positive), so that 0 is always white.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A4C93", "#7F7F7F")
"""Categorical colours, Okabe and Ito 2008 (its yellow and black replaced: too faint, and the ink's)."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "pentagon", "hexagon")
"""Marker shapes, so that methods differ without colour and when the palette repeats."""

DIVERGING: list[tuple[float, str]] = [
    (0.0, "#8C2D04"),
    (0.2, "#D5652A"),
    (0.4, "#F6C7A6"),
    (0.5, "#FFFFFF"),
    (0.6, "#B5D3E8"),
    (0.8, "#3C87BE"),
    (1.0, "#0B3C6F"),
]
"""Colours from negative to positive, white at 0."""

SEQUENTIAL: list[tuple[float, str]] = [(2 * (at - 0.5), colour) for at, colour in DIVERGING if at >= 0.5]
"""Colours from 0 to large: the positive half of the diverging scale, white at 0."""

DIVERGING_DARK: list[tuple[float, str]] = [
    (0.0, "#FFC9A3"),
    (0.2, "#E27A3F"),
    (0.4, "#6B3418"),
    (0.5, "#1B2128"),
    (0.6, "#1F4666"),
    (0.8, "#4C9BD6"),
    (1.0, "#BFE3FF"),
]
"""Colours from negative to positive on a dark page, the page's own colour at 0."""

SEQUENTIAL_DARK: list[tuple[float, str]] = [(2 * (at - 0.5), colour) for at, colour in DIVERGING_DARK if at >= 0.5]

INK = "#1F2933"
MUTED = "#66717E"
GRID = "#E4E8EC"


@dataclass(frozen=True)
class Colours:
    """Hold the colours of a page: its background, its text, weaker text and lines, and the grid."""

    paper: str
    ink: str
    muted: str
    grid: str


LIGHT = Colours("#FFFFFF", INK, MUTED, GRID)
DARK = Colours("#1B2128", "#E6EAEE", "#A3ADB8", "#3A4652")

TO_DARK = {
    LIGHT.paper: DARK.paper, LIGHT.ink: DARK.ink, LIGHT.muted: DARK.muted, LIGHT.grid: DARK.grid,
    "#EEF2F5": "#2A333C", "#0072B2": "#4AA8E0", "#D55E00": "#F08A3C", "#6A4C93": "#A88BD0",
}  # fmt: skip
"""Colours of a light figure that a dark page needs changed. Okabe and Ito's blue and vermilion are made lighter."""


def colours(layout: Mapping[str, object]) -> Colours:
    """Return the colours of the page of a figure."""
    return DARK if layout.get("paper_bgcolor") == DARK.paper else LIGHT


def darkened(part: object) -> object:
    """Return part of a figure, as plotly writes it, in the colours of a dark page."""
    if isinstance(part, Mapping):
        return {k: _dark_scale(v) if k == "colorscale" else darkened(v) for k, v in part.items()}
    if isinstance(part, (list, tuple)):
        return [darkened(v) for v in part]
    return TO_DARK.get(part, part) if isinstance(part, str) else part


def _dark_scale(scale: object) -> object:
    """Return the dark form of one of this module's colour scales; others are unchanged."""
    stops = [tuple(stop) for stop in scale] if isinstance(scale, (list, tuple)) else []
    if stops == DIVERGING:
        return DIVERGING_DARK
    return SEQUENTIAL_DARK if stops == SEQUENTIAL else scale


def channels(colour: str) -> tuple[int, int, int, float]:
    """Read a CSS colour, `#rrggbb`, `rgb(…)` or `rgba(…)`: red, green, blue from 0 to 255, and opacity.

    >>> channels("#0072B2"), channels("rgba(0, 158, 115, 0.14)")
    ((0, 114, 178, 1.0), (0, 158, 115, 0.14))
    """
    if colour.startswith("rgb"):
        numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")]
        red, green, blue = (round(c) for c in numbers[:3])
        return red, green, blue, numbers[3] if len(numbers) > 3 else 1.0
    red, green, blue = plotly.colors.hex_to_rgb(colour)
    return red, green, blue, 1.0


FONT = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', Arial, sans-serif"

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "font": {"size": 16},
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14, "l": 8},
        },
        "paper_bgcolor": "#FFFFFF",
        "plot_bgcolor": "#FFFFFF",
        "colorway": list(PALETTE),
        "colorscale": {"diverging": DIVERGING},
        "xaxis": {
            "gridcolor": GRID,
            "linecolor": MUTED,
            "zerolinecolor": MUTED,
            "ticks": "outside",
            "automargin": True,
            "title": {"standoff": 10},
        },
        "yaxis": {
            "gridcolor": GRID,
            "linecolor": MUTED,
            "zerolinecolor": MUTED,
            "ticks": "outside",
            "automargin": True,
            "title": {"standoff": 10},
        },
        "legend": {"bgcolor": "rgba(255,255,255,0)"},
        "hoverlabel": {"font": {"family": FONT, "size": 13}},
        "margin": {"l": 64, "r": 24, "t": 100, "b": 64},
    }
)
"""Plotly template of every figure."""

_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"})


def visible(token: str) -> str:
    r"""Make a token visible: show blanks and line ends, and write unprintable characters as escapes.

    >>> visible(" the\n")
    '␣the⏎'
    >>> visible("\u200b")
    '\\u200b'
    """
    shown = token.translate(_VISIBLE)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def escape(text: str) -> str:
    r"""Escape text so that plotly, which reads some HTML in labels, shows it unchanged.

    Quotes are kept: plotly puts labels in text nodes, never in attributes, and would show `&quot;` as written.

    >>> escape('<b>&"')
    '&lt;b&gt;&amp;"'
    """
    return html.escape(text, quote=False)


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Label tokens `"{token}_{i}"` with visible blanks and escaped markup, unique as categories of an axis.

    Tokens (or words, or sentences) of more than 24 characters are cut.

    >>> token_labels([" of", "<s>"])
    ['␣of_0', '&lt;s&gt;_1']
    """
    return [f"{escape(short(visible(token), 24))}_{i}" for i, token in enumerate(tokens)]


def probe_name(probe: str) -> str:
    """Write the name of a probe in words.

    >>> probe_name("random_words:focus_list"), probe_name("unrelated_fact:patch_prompt")
    ('random words in focus list', 'unrelated fact in patch prompt')
    """
    return probe.replace(":", " in ").replace("_", " ")


def strongest(values: NDArray[np.float64], top: int) -> tuple[list[int], str]:
    """Choose the rows of a table with the largest entries, in their order, and name the row of all others.

    Args:
        values: Table, `[row, ...]`.
        top: Number of rows to keep. A table with one row more is kept whole.

    Returns:
        Indices of the rows, and the label of the rest; it is empty if all rows are kept.

    >>> strongest(np.array([[0.1], [-3.0], [0.2], [1.0]]), 2)
    ([1, 3], 'rest (2)')
    """
    if len(values) <= top + 1:
        return list(range(len(values))), ""
    sizes = np.nan_to_num(np.abs(values).reshape(len(values), -1)).max(1)
    kept = sorted(np.argsort(-sizes, kind="stable")[:top].tolist())
    return kept, f"rest ({len(values) - top})"


def shortened(values: NDArray[np.float64], labels: Sequence[str], top: int) -> tuple[NDArray[np.float64], list[str]]:
    """Keep the rows of a table with the largest entries, and sum all others in a last row, so that sums stay equal.

    Args:
        values: Table, `[row, ...]`.
        labels: Label of each row.
        top: Number of rows to keep.

    >>> shortened(np.array([0.1, -3.0, 0.2, 1.0]), ["a", "b", "c", "d"], 2)
    (array([-3. ,  1. ,  0.3]), ['b', 'd', 'rest (2)'])
    """
    kept, rest = strongest(values, top)
    if not rest:
        return values, list(labels)
    others = np.delete(values, kept, axis=0).sum(0, keepdims=True)
    return np.concatenate([values[kept], others]), [*(labels[i] for i in kept), rest]


def token_axis(fig: go.Figure, tokens: Sequence[str], facets: int = 1) -> None:
    """Put tokens along the x axis of a map, each with its label if there is room.

    Args:
        fig: Figure whose x axes all show these tokens.
        tokens: Labels of the tokens.
        facets: Number of maps side by side.
    """
    crowded = len(tokens) * facets
    fig.update_xaxes(
        type="category",
        showgrid=False,
        tickangle=-90 if crowded > 40 else -45,
        tickfont={"size": 10 if crowded > 40 else 13},
        dtick=-(-crowded // 90),
    )


def array(values: Any) -> NDArray[np.float64]:
    """Convert a tensor of any float type, or anything that numpy reads, to a float64 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().to(torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def symmetric_limit(arrays: Iterable[Any]) -> float:
    """Compute the largest finite absolute value of all arrays: the end of a scale centred on 0.

    Returns:
        The limit; 1.0 if nothing is finite or all is zero, so that a scale always has a width.

    >>> symmetric_limit([[1.0, -3.0], [float("nan"), 2.0]])
    3.0
    """
    limit = 0.0
    for values in map(array, arrays):
        finite = np.abs(values[np.isfinite(values)])
        limit = max(limit, float(finite.max(initial=0.0)))
    return limit or 1.0


def diverging_axis(limit: float, title: str) -> dict[str, Any]:
    """Make a plotly colour axis from -limit to +limit, white at 0."""
    return {
        "colorscale": DIVERGING,
        "cmin": -limit,
        "cmax": limit,
        # The title is above the bar: beside it, plotly lets it overlap the labels.
        "colorbar": {"title": {"text": title, "side": "top"}, "thickness": 12, "outlinewidth": 0, "nticks": 3},
    }


def diverging_colour(value: float, limit: float) -> tuple[str, str]:
    """Return the colour of a value on the diverging scale, and a legible text colour.

    Args:
        value: Value to show; grey if not finite.
        limit: End of the scale, > 0.

    Returns:
        Background and text colour, as CSS.

    >>> diverging_colour(0.0, 2.0)
    ('rgb(255, 255, 255)', '#1F2933')
    """
    if not np.isfinite(value):
        return "rgb(217, 217, 217)", INK
    place = min(max((value / limit + 1) / 2, 0.0), 1.0)
    stops, colours = zip(*DIVERGING, strict=True)
    channels = zip(*map(plotly.colors.hex_to_rgb, colours), strict=True)
    red, green, blue = (round(float(np.interp(place, stops, channel))) for channel in channels)
    return f"rgb({red}, {green}, {blue})", legible((red, green, blue))


def legible(colour: tuple[int, int, int]) -> str:
    """Return a text colour with a contrast of at least 4.5 (WCAG AA) on a background of red, green and blue.

    >>> legible((255, 255, 255)), legible((11, 60, 111)), legible((200, 91, 35))
    ('#1F2933', '#FFFFFF', '#000000')
    """
    light = _luminance(colour)
    if (light + 0.05) / (_luminance(channels(INK)[:3]) + 0.05) >= 4.5:
        return INK
    return "#FFFFFF" if 1.05 / (light + 0.05) >= 4.5 else "#000000"


def _luminance(colour: tuple[int, ...]) -> float:
    """Compute the relative luminance of WCAG 2 from red, green and blue."""
    red, green, blue = (c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def titled(title: str, subtitle: str = "") -> dict[str, Any]:
    """Make a title with a subtitle: measure, unit, method. Both must be escaped."""
    return {"text": title, "subtitle": {"text": subtitle, "font": {"size": 12, "color": MUTED}}}


def figure(title: str, subtitle: str = "", **layout: Any) -> go.Figure:
    """Make an empty figure with the template."""
    return dress(go.Figure(), title, subtitle, **layout)


def dress(fig: go.Figure, title: str, subtitle: str = "", **layout: Any) -> go.Figure:
    """Give a figure the template and a title with its subtitle."""
    fig.update_layout(template=TEMPLATE, title=titled(title, subtitle), **layout)
    return fig


def series_style(index: int) -> tuple[str, str]:
    """Return colour and marker of the index-th series; pairs repeat after 64."""
    n = len(PALETTE)
    return PALETTE[index % n], SYMBOLS[(index + index // n) % len(SYMBOLS)]


def short(text: str, limit: int = 48) -> str:
    """Cut text to `limit` characters, with an ellipsis if something is missing.

    >>> short("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def floor_marks(x: Any, y: Any, *, legend: bool = True) -> go.Scatter:
    """Draw the noise baseline of each bar as a hollow diamond on it."""
    return go.Scatter(
        x=x,
        y=y,
        name="noise baseline",
        legendgroup="noise baseline",
        showlegend=legend,
        mode="markers",
        marker={"symbol": "diamond-open", "size": 9, "color": INK, "line": {"width": 1.5}},
        hovertemplate="%{x}, %{y}<extra>noise baseline</extra>",
    )


def whiskers(values: NDArray[np.float64]) -> dict[str, object]:
    """Make error bars from rows of `[mean, low, high, n]`."""
    ends = {"array": values[:, 2] - values[:, 0], "arrayminus": values[:, 0] - values[:, 1]}
    return {"type": "data", "symmetric": False, **ends, "color": INK, "thickness": 1, "width": 2}


def signed_bars(values: NDArray[np.float64], labels: Sequence[str], hover: str) -> go.Bar:
    """Draw one horizontal bar for each value, blue if positive and vermilion if negative.

    Args:
        values: Length of each bar.
        labels: Label of each bar.
        hover: Template of the text shown on hover.
    """
    colours = [PALETTE[0] if value >= 0 else PALETTE[1] for value in values.tolist()]
    return go.Bar(x=values, y=list(labels), orientation="h", marker={"color": colours}, hovertemplate=hover)


def significant(adjusted_p: Any, level: float) -> go.Scatter:
    """Draw a black dot on each cell of a `[layer, head]` map that is significant after correction for the whole map.

    Args:
        adjusted_p: Adjusted p-values, `[layer, head]`. None draws no dot: results of version 0.1 hold none.
        level: Confidence level; a dot means p ≤ 1 − level.
    """
    rows, columns = np.nonzero(array(adjusted_p) <= 1 - level + 1e-6) if adjusted_p is not None else ((), ())
    dots = {"color": INK, "size": 7, "line": {"color": "#FFFFFF", "width": 1}}
    return go.Scatter(x=columns, y=rows, mode="markers", showlegend=False, hoverinfo="skip", marker=dots)


def dot_legend(level: float) -> str:
    """Explain the dots of `significant`.

    >>> dot_legend(0.95)
    'black dot: significant at 5%, corrected for all cells'
    """
    return f"black dot: significant at {100 * (1 - level):.3g}%, corrected for all cells"
