"""Lay out a figure on its page: margins from the texts that stand in them, then the pixels of every axis."""

from __future__ import annotations

import math
import textwrap
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass

from unpact_lens.plots import theme
from unpact_lens.plots.drawing import Drawing, text_width
from unpact_lens.plots.static_axes import Axis, Spec, listed, make_axis, number, plain, spec
from unpact_lens.plots.static_style import colour_axis, each

WIDTH = 900
"""Width of a picture in pixels if the figure has none."""

TICK, TITLE, SMALL = 11.0, 15.0, 11.5
"""Sizes of text: at ticks, of the title, and of the subtitle and everything else."""

_SHARED = ("type", "range", "autorange", "rangemode", "dtick")
"""Options that axes take from the one that they match."""


@dataclass(frozen=True)
class Plot:
    """Hold one subplot: its two axes and its traces with their index in the figure."""

    x: Axis
    y: Axis
    traces: tuple[tuple[int, Spec], ...]


class PageLayout:
    """Compute where the parts of a figure stand on its page.

    Args:
        layout: The figure's layout, as plotly writes it.
        traces: Its traces.
        width: Width in pixels. If None, that of the figure, or `WIDTH`.
    """

    def __init__(self, layout: Spec, traces: list[Spec], width: float | None) -> None:
        self.layout = layout
        self.traces = [t for t in traces if t.get("visible", True) is True]
        self.width = width or number(layout.get("width"), WIDTH)
        self.title, self.subtitle = self._titles()
        page = theme.colours(layout)
        self.paper, self.ink, self.muted, self.grid = page.paper, page.ink, page.muted, page.grid
        self.axes = {} if any(t.get("type") == "table" for t in self.traces) else self._axes()
        self.legend = self._legend_entries()
        self._place()

    def _titles(self) -> tuple[list[str], list[str]]:
        title = spec(self.layout.get("title"))
        lines = plain(title.get("text") or ""), plain(spec(title.get("subtitle")).get("text") or "")
        wide = (int((self.width - 40) / (size * 0.56)) for size in (TITLE, SMALL))
        first, second = (textwrap.wrap(line, n) for line, n in zip(lines, wide, strict=True))
        return first, second

    def _axes(self) -> dict[str, Axis]:
        """Build every axis. Axes that match show one range."""
        named: dict[str, list[Spec]] = {}
        for trace in self.traces:
            for letter in ("x", "y"):
                key = f"{letter}axis{str(trace.get(f'{letter}axis') or letter)[1:]}"
                named.setdefault(key, []).append(trace)
        for key in self.layout:
            if key[:5] in ("xaxis", "yaxis"):
                named.setdefault(key, [])
        group = {k: f"{k[0]}axis{str(spec(self.layout.get(k)).get('matches') or k[0] + k[5:])[1:]}" for k in named}
        axes = {}
        for key in named:
            own = spec(self.layout.get(key))
            shared = [t for other, traces in named.items() if group[other] == group[key] for t in traces]
            matched = spec(self.layout.get(group[key]))
            lead = {k: matched[k] for k in _SHARED if k in matched}
            options: Spec = ChainMap(own, lead)  # type: ignore[arg-type]  # only read
            axes[key] = make_axis("x" if key[0] == "x" else "y", options, shared, self._marks(key))
        return axes

    def _marks(self, key: str) -> list[float]:
        """Return the coordinates of the shapes that stand on an axis, which its range holds too."""
        letter, ref = key[0], key[0] + key[5:]
        shapes = [
            s for s in map(spec, listed(self.layout.get("shapes"))) if str(s.get(f"{letter}ref") or letter) == ref
        ]
        return [number(shape.get(f"{letter}{end}")) for shape in shapes for end in (0, 1)]

    def _place(self) -> None:
        """Compute the margins from the texts that stand in them, then the pixels of every axis."""
        self.head = 16 + 20 * len(self.title) + 16 * len(self.subtitle)
        rows = self.legend_rows()
        self.top = self.head + 20 * len(rows) + (22 if self._has_top_titles() else 8)
        bars = self.colour_bars()
        names = [name for name, *_ in self.legend] if self.legend_beside() else []
        side = max((text_width(name, SMALL) + 34 for name in names), default=0.0)
        self.right = 20 + (74 * len(bars)) + side
        self.left = 16.0
        self.bottom = 12.0
        for axis in self.axes.values():
            if axis.letter == "y" and axis.domain[0] >= 0 and self._leftmost(axis):
                self.left = max(self.left, self._labels_wide(axis) + 14)
        self.inner = self.width - self.left - self.right
        for axis in self.axes.values():
            if axis.letter == "x":
                axis.start = self.left + axis.domain[0] * self.inner
                axis.end = self.left + axis.domain[1] * self.inner
        for axis in self.axes.values():
            if axis.letter == "x":
                self.bottom = max(self.bottom, self._labels_high(axis) + 8)
        asked = number(self.layout.get("height"), 450)
        margin = spec(self.layout.get("margin"))
        self.area = max(60.0, asked - number(margin.get("t"), 100) - number(margin.get("b"), 64), 20.0 * len(names))
        if not self.axes:
            columns = [c for t in self.traces for c in listed(spec(t.get("cells")).get("values"))]
            self.area = 26.0 * (1 + max((len(listed(c)) for c in columns), default=1))
        self.height = self.top + self.area + self.bottom
        for axis in self.axes.values():
            if axis.letter == "y":
                axis.start = self.top + (1 - axis.domain[0]) * self.area
                axis.end = self.top + (1 - axis.domain[1]) * self.area
        alt = " – ".join(" ".join(lines) for lines in (self.title, self.subtitle))
        self.drawing = Drawing(self.width, self.height, self.paper, alt)

    def _leftmost(self, axis: Axis) -> bool:
        plots = [p for p in self.plots() if p.y is axis]
        return any(p.x.domain[0] < 0.02 for p in plots)

    def _labels_wide(self, axis: Axis) -> float:
        """Return the room that labels and title of a vertical axis take."""
        if axis.layout.get("showticklabels") is False:
            return 0.0
        axis.start, axis.end = 1000.0, 0.0
        wide = max((text_width(cut(text), TICK) for _, text in axis.ticks()), default=0.0) + 8
        groups = 20 if axis.categories and isinstance(axis.categories[0], tuple) else 0
        return wide + groups + (18 if title_of(axis.layout) else 0)

    def _labels_high(self, axis: Axis) -> float:
        """Return the room that labels and title of a horizontal axis take."""
        title = 20 if title_of(axis.layout) else 0
        if axis.layout.get("showticklabels") is False:
            return title
        wide = max((text_width(cut(text), TICK) for _, text in axis.ticks()), default=0.0)
        angle = self.angle(axis)
        return title + (18 if not angle else wide * math.sin(math.radians(angle)) + 18)

    def angle(self, axis: Axis) -> float:
        """Return how far the labels of a horizontal axis are turned, degrees."""
        ticks = axis.ticks()
        room = axis.length / max(1, len(ticks))
        wide = max((text_width(cut(text), TICK) for _, text in ticks), default=0.0)
        return 0.0 if wide + 6 < room else 45.0 if room >= 16 else 90.0

    def plots(self) -> list[Plot]:
        """Return the subplots in the order of their first traces."""
        found: dict[tuple[str, str], list[tuple[int, Spec]]] = {}
        for k, trace in enumerate(self.traces):
            keys = tuple(f"{letter}axis{str(trace.get(f'{letter}axis') or letter)[1:]}" for letter in "xy")
            found.setdefault((keys[0], keys[1]), []).append((k, trace))
        return [Plot(self.axes[x], self.axes[y], tuple(traces)) for (x, y), traces in found.items()]

    def _has_top_titles(self) -> bool:
        notes = (spec(a) for a in listed(self.layout.get("annotations")))
        return any(a.get("yref") == "paper" and number(a.get("y"), 0) > 0.97 for a in notes)

    def colour_bars(self) -> list[Spec]:
        """Return the colour axes that have a scale beside the plots."""
        used = {str(t.get("coloraxis") or spec(t.get("marker")).get("coloraxis") or "") for t in self.traces}
        axes = [spec(self.layout.get(name)) for name in sorted(used) if name]
        maps = [t for t in self.traces if t.get("type") == "heatmap" and not t.get("coloraxis")]
        axes += [axis for axis in (colour_axis(t, self.layout) for t in maps) if "cmin" in axis]
        return [axis for axis in axes if axis.get("showscale", True)]

    def _legend_entries(self) -> list[tuple[str, str, str]]:
        """Return name, colour and symbol of each entry of the legend; empty if there is none."""
        if self.layout.get("showlegend") is False:
            return []
        entries: dict[str, tuple[str, str, str]] = {}
        for k, trace in enumerate(self.traces):
            if trace.get("showlegend") is False or not trace.get("name") or trace.get("type") in ("heatmap", "table"):
                continue
            name = plain(trace["name"])
            symbol = str(each(spec(trace.get("marker")).get("symbol"), 1, "circle")[0])
            symbol = symbol if trace.get("type", "scatter") == "scatter" else "square"
            entries.setdefault(name, (name, self.colour(trace, k), symbol))
        several = len(entries) > 1 or self.layout.get("showlegend") is True
        return list(entries.values()) if several else []

    def legend_beside(self) -> bool:
        """Return whether the legend stands to the right of the plots."""
        return bool(self.legend) and spec(self.layout.get("legend")).get("orientation") != "h"

    def legend_rows(self) -> list[list[tuple[str, str, str]]]:
        """Return the entries of a horizontal legend in rows that fit the page."""
        rows: list[list[tuple[str, str, str]]] = []
        if self.legend_beside():
            return rows
        used = math.inf
        for entry in self.legend:
            wide = text_width(entry[0], SMALL) + 34
            if used + wide > self.width - 40:
                rows.append([])
                used = 0.0
            rows[-1].append(entry)
            used += wide
        return rows

    def colour(self, trace: Spec, index: int) -> str:
        """Return the colour of a trace."""
        places = ("line", "marker") if "lines" in str(trace.get("mode") or "") else ("marker", "line")
        for place in places:
            colour = spec(trace.get(place)).get("color")
            if isinstance(colour, str) and "0,0,0,0" not in colour.replace(" ", ""):
                return colour
        increasing = spec(spec(trace.get("increasing")).get("marker")).get("color")
        return str(increasing or theme.PALETTE[index % len(theme.PALETTE)])


def title_of(layout: Mapping[str, object]) -> str:
    """Return the title of an axis or a figure as plain text."""
    title = layout.get("title")
    return plain(spec(title).get("text") or "") if isinstance(title, Mapping) else plain(title or "")


def cut(text: str) -> str:
    """Shorten a label."""
    return theme.short(text, 48)
