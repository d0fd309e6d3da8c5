"""Draw a plotly figure without a browser, for front ends that run no script.

The pictures serve where plotly.js cannot: GitHub, `nbconvert`, a notebook without plotly's extension, a mail. They show
the trace types that this package uses: heat maps, bars, waterfalls, lines and points, strips of points, and tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from unpact_lens.plots import theme
from unpact_lens.plots.colour_scale import ColourScale
from unpact_lens.plots.drawing import Cells, Drawing, Label, Polygon, marker, text_width
from unpact_lens.plots.static_axes import (
    Axis,
    Spec,
    axis_values,
    floats,
    listed,
    number,
    plain,
    spec,
    tick_label,
    waterfall_steps,
)  # fmt: skip
from unpact_lens.plots.static_layout import SMALL, TICK, TITLE, PageLayout, Plot, cut, title_of
from unpact_lens.plots.static_style import cell_text, colour_axis, dash, each


def draw(fig: go.Figure, width: float | None = None) -> Drawing:
    """Draw a figure.

    Args:
        fig: Figure of this package.
        width: Width in pixels. If None, that of the figure, or `WIDTH`.
    """
    data = fig.to_plotly_json()
    page = _Page(spec(data.get("layout")), [spec(t) for t in listed(data.get("data"))], width)
    page.paint()
    return page.drawing


class _Page(PageLayout):
    """Draw a figure that is laid out."""

    def paint(self) -> None:
        """Draw everything."""
        self._paint_head()
        if not self.axes:
            self._paint_table()
            return
        plots = self.plots()
        for plot in plots:
            self._paint_grid(plot)
        self._paint_shapes(below=True)
        for plot in plots:
            self._paint_traces(plot)
        self._paint_shapes(below=False)
        for plot in plots:
            self._paint_axis(plot.x, plot.y)
            self._paint_axis(plot.y, plot.x)
        for note in listed(self.layout.get("annotations")):
            self._paint_note(spec(note))
        for k, axis in enumerate(self.colour_bars()):
            self._paint_colour_bar(axis, self.width - self.right + 22 + 74 * k)

    def _text(self, x: float, y: float, text: str, **style: object) -> None:
        size, colour = number(style.get("size"), TICK), str(style.get("colour") or self.ink)
        anchor = style.get("anchor", "start")
        angle = number(style.get("angle"), 0.0)
        self.drawing.shapes.append(Label(x, y, text, size, colour, anchor, angle))  # type: ignore[arg-type]

    def _paint_head(self) -> None:
        y = 18.0
        for line in self.title:
            self._text(14, y, line, size=TITLE)
            y += 20
        for line in self.subtitle:
            self._text(14, y, line, size=SMALL, colour=self.muted)
            y += 16
        y = self.head + 8
        for row in self.legend_rows():
            x = 18.0
            for entry in row:
                x = self._paint_entry(x, y, entry)
            y += 20
        if self.legend_beside():
            x, y = self.width - self.right + 20 + 74 * len(self.colour_bars()), self.top + 8
            for entry in self.legend:
                self._paint_entry(x, y, entry)
                y += 20

    def _paint_entry(self, x: float, y: float, entry: tuple[str, str, str]) -> float:
        """Draw an entry of the legend. Return where the next one starts."""
        name, colour, symbol = entry
        self.drawing.shapes += marker(symbol, x, y, 10, colour)
        self._text(x + 12, y, name, size=SMALL)
        return x + text_width(name, SMALL) + 34

    def _paint_grid(self, plot: Plot) -> None:
        maps = all(t.get("type") == "heatmap" for _, t in plot.traces)
        for axis, across in ((plot.x, plot.y), (plot.y, plot.x)):
            if axis.layout.get("showgrid") is False or maps:
                continue
            for at, _ in axis.ticks():
                p = axis.pixel(at)
                ends = [(p, across.start), (p, across.end)]
                ends = ends if axis.letter == "x" else [(y, x) for x, y in ends]
                zero = at == 0 and axis.categories is None and not axis.log and axis.layout.get("zeroline") is not False
                self.drawing.line(ends, self.muted if zero else self.grid)

    def _paint_traces(self, plot: Plot) -> None:
        stacks = [k for k, t in plot.traces if t.get("type") in ("bar", "waterfall") and t.get("offset") is None]
        for k, trace in plot.traces:
            kind = trace.get("type", "scatter")
            if kind == "heatmap":
                self._paint_map(plot, trace)
            elif kind in ("bar", "waterfall"):
                self._paint_bars(plot, trace, k, (stacks.index(k), len(stacks)) if k in stacks else None)
            elif kind == "box":
                self._paint_strip(plot, trace, k)
            elif kind == "scatter":
                self._paint_scatter(plot, trace, k)

    def _paint_map(self, plot: Plot, trace: Spec) -> None:
        z = np.array([floats(row) for row in listed(trace.get("z"))])
        if z.size == 0:
            return
        scale = ColourScale.of(colour_axis(trace, self.layout))
        columns = [plot.x.at(v) for v in axis_values(trace, "x")]
        rows = [plot.y.at(v) for v in axis_values(trace, "y")]
        lefts = sorted(plot.x.pixel(c - 0.5) for c in columns), sorted(plot.x.pixel(c + 0.5) for c in columns)
        tops = sorted(min(plot.y.pixel(r - 0.5), plot.y.pixel(r + 0.5)) for r in rows)
        wide = (lefts[1][-1] - lefts[0][0]) / len(columns)
        high = abs(plot.y.pixel(1) - plot.y.pixel(0))
        order_x = np.argsort([plot.x.pixel(c) for c in columns])
        order_y = np.argsort([plot.y.pixel(r) for r in rows])
        shown = z[np.ix_(order_y, order_x)]
        colours = tuple(tuple("" if math.isnan(v) else scale.colour(v) for v in row) for row in shown.tolist())
        gap = 1.0 if number(trace.get("xgap"), 0) and min(wide, high) > 4 else 0.0
        self.drawing.shapes.append(Cells(lefts[0][0], tops[0], wide, high, colours, gap))
        if trace.get("texttemplate"):
            self._paint_numbers(plot, trace, z, scale, (columns, rows))

    def _paint_numbers(
        self,
        plot: Plot,
        trace: Spec,
        z: NDArray[np.float64],
        scale: ColourScale,
        places: tuple[list[float], list[float]],
    ) -> None:
        room = abs(plot.x.pixel(1) - plot.x.pixel(0)) - 3
        for i, row in enumerate(places[1]):
            for j, column in enumerate(places[0]):
                value = float(z[i, j])
                if math.isnan(value):
                    continue
                text = cell_text(trace, i, j, value)
                size = min(TICK, TICK * room / max(1.0, text_width(text, TICK)))
                if size >= 6:
                    style = {"size": size, "colour": scale.ink(value), "anchor": "middle"}
                    self._text(plot.x.pixel(column), plot.y.pixel(row), text, **style)

    def _paint_bars(self, plot: Plot, trace: Spec, index: int, slot: tuple[int, int] | None) -> None:
        flat = trace.get("orientation") == "h"
        along, across = (plot.y, plot.x) if flat else (plot.x, plot.y)
        places = [along.at(v) for v in axis_values(trace, along.letter)]
        values = floats(trace.get(across.letter)).tolist()
        steps = waterfall_steps(trace) if trace.get("type") == "waterfall" else [(0.0, v) for v in values]
        width = number(trace.get("width"), 0.8 / (slot[1] if slot else 1))
        if slot is None:
            shift = number(trace.get("offset"), -width / 2)
        else:
            shift = -0.4 + slot[0] * width
        colours = self._bar_colours(trace, index, values)
        for place, (low, high), colour in zip(places, steps, colours, strict=False):
            if math.isnan(high) or math.isnan(place):
                continue
            a, b = along.pixel(place + shift), along.pixel(place + shift + width)
            c, d = (across.pixel(across.low if math.isnan(at := across.at(v)) else at) for v in (low, high))
            box = (min(c, d), min(a, b), max(c, d), max(a, b)) if flat else (min(a, b), min(c, d), max(a, b), max(c, d))
            self.drawing.rectangle(*box, colour)
        middle = [place + shift + width / 2 for place in places]
        ends = [across.at(high) for _, high in steps]
        self._paint_whiskers(plot, trace, (ends, middle) if flat else (middle, ends))

    def _bar_colours(self, trace: Spec, index: int, values: list[float]) -> list[str]:
        mark = spec(trace.get("marker"))
        several = listed(mark.get("color"))
        if several and mark.get("coloraxis"):
            scale = ColourScale.of(spec(self.layout.get(str(mark["coloraxis"]))))
            return [scale.colour(number(v)) for v in several]
        if several:
            return [str(c) for c in several]
        if trace.get("type") == "waterfall":
            up, down, total = (
                str(spec(spec(trace.get(part)).get("marker")).get("color") or self.muted)
                for part in ("increasing", "decreasing", "totals")
            )
            measures = [*listed(trace.get("measure")), *[""] * len(values)]
            return [total if m == "total" else up if v >= 0 else down for m, v in zip(measures, values, strict=False)]
        return [self.colour(trace, index)] * len(values)

    def _paint_scatter(self, plot: Plot, trace: Spec, index: int) -> None:
        xs = [plot.x.at(v) for v in axis_values(trace, "x")]
        ys = [plot.y.at(v) for v in axis_values(trace, "y")]
        colour = self.colour(trace, index)
        mode = str(trace.get("mode") or "lines+markers")
        self._paint_whiskers(plot, trace, (xs, ys), colour)
        points = [(plot.x.pixel(x), plot.y.pixel(y)) for x, y in zip(xs, ys, strict=False)]
        if "lines" in mode:
            dashes = dash(spec(trace.get("line")), 4.0)
            run: list[tuple[float, float]] = []
            for point in [*points, (math.nan, math.nan)]:
                if math.isnan(point[0] + point[1]):
                    self.drawing.line(run, colour, number(spec(trace.get("line")).get("width"), 2.0), dashes)
                    run = []
                else:
                    run.append(point)
        if "markers" in mode:
            mark = spec(trace.get("marker"))
            colours = [str(c) for c in listed(mark.get("color"))] or [colour] * len(points)
            symbols = each(mark.get("symbol"), len(points), "circle")
            sizes = each(mark.get("size"), len(points), 7)
            edge = number(spec(mark.get("line")).get("width"), 1.0)
            for (x, y), own, symbol, size in zip(points, colours, symbols, sizes, strict=False):
                if not math.isnan(x + y):
                    self.drawing.shapes += marker(str(symbol), x, y, number(size, 7), own, max(1.0, edge))
        if "text" in mode:
            self._paint_texts(trace, points)

    def _paint_texts(self, trace: Spec, points: list[tuple[float, float]]) -> None:
        """Write the texts of points where `textposition` says; the middle if it says nothing."""
        places = each(trace.get("textposition"), len(points), "middle center")
        for (x, y), text, place in zip(points, each(trace.get("text"), len(points), ""), places, strict=False):
            if not math.isnan(x + y):
                up = 13.0 * (("bottom" in str(place)) - ("top" in str(place)))
                aside = 8.0 * (("right" in str(place)) - ("left" in str(place)))
                anchor = "start" if aside > 0 else "end" if aside else "middle"
                self._text(x + aside, y + up, plain(text), size=TICK, anchor=anchor)

    def _paint_whiskers(
        self, plot: Plot, trace: Spec, points: tuple[list[float], list[float]], colour: str | None = None
    ) -> None:
        """Draw error bars, in their own colour, that of the trace, or ink."""
        for letter, axis in (("x", plot.x), ("y", plot.y)):
            bars = spec(trace.get(f"error_{letter}"))
            above = floats(bars.get("array"))
            below = floats(bars.get("arrayminus")) if bars.get("arrayminus") is not None else above
            own = str(bars.get("color") or colour or self.ink)
            for x, y, up, down in zip(*points, above, below, strict=False):
                if math.isnan(x + y + up + down):
                    continue
                p, q = plot.x.pixel(x), plot.y.pixel(y)
                at = x if letter == "x" else y
                ends = [axis.pixel(axis.moved(at, -down)), axis.pixel(axis.moved(at, up))]
                if letter == "x":
                    self.drawing.line([(ends[0], q), (ends[1], q)], own)
                    for end in ends:
                        self.drawing.line([(end, q - 3), (end, q + 3)], own)
                else:
                    self.drawing.line([(p, ends[0]), (p, ends[1])], own)
                    for end in ends:
                        self.drawing.line([(p - 3, end), (p + 3, end)], own)

    def _paint_strip(self, plot: Plot, trace: Spec, index: int) -> None:
        """Draw points beside each other at a category, spread by the golden ratio."""
        mark = spec(trace.get("marker"))
        red, green, blue, _ = theme.channels(str(mark.get("color") or theme.PALETTE[index % len(theme.PALETTE)]))
        faint = f"rgba({red},{green},{blue},{number(mark.get('opacity'), 1.0)})"
        for k, (x, y) in enumerate(zip(axis_values(trace, "x"), floats(trace.get("y")).tolist(), strict=False)):
            if not math.isnan(y):
                place = plot.x.at(x) + 0.5 * ((k * 0.618034) % 1 - 0.5)
                size = number(mark.get("size"), 5)
                self.drawing.shapes += marker("circle", plot.x.pixel(place), plot.y.pixel(y), size, faint)

    def _paint_shapes(self, *, below: bool) -> None:
        for shape in map(spec, listed(self.layout.get("shapes"))):
            if (shape.get("layer") == "below") != below:
                continue
            x0, x1 = (self._reference(shape.get(k), str(shape.get("xref") or "x"), "x") for k in ("x0", "x1"))
            y0, y1 = (self._reference(shape.get(k), str(shape.get("yref") or "y"), "y") for k in ("y0", "y1"))
            line = spec(shape.get("line"))
            if shape.get("type") == "rect":
                corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
                edge = str(line.get("color") or "") if number(line.get("width"), 1) else ""
                self.drawing.shapes.append(Polygon(corners, str(shape.get("fillcolor") or ""), edge))
            else:
                colour, wide = str(line.get("color") or self.muted), number(line.get("width"), 2)
                self.drawing.line([(x0, y0), (x1, y1)], colour, wide, dash(line, 3.0))

    def _reference(self, value: object, ref: str, letter: str) -> float:
        """Return the pixel of a coordinate of a shape or note: of the paper, of an axis, or of an axis's domain."""
        if ref == "paper":
            share = number(value, 0.0)
            return self.left + share * self.inner if letter == "x" else self.top + (1 - share) * self.area
        axis = self.axes[f"{letter}axis{ref.split()[0][1:]}"]
        if ref.endswith("domain"):
            return axis.start + number(value, 0.0) * (axis.end - axis.start)
        return axis.pixel(axis.at(value))

    def _paint_note(self, note: Spec) -> None:
        x = self._reference(note.get("x"), str(note.get("xref") or "x"), "x")
        y = self._reference(note.get("y"), str(note.get("yref") or "y"), "y")
        anchor = {"left": "start", "right": "end"}.get(str(note.get("xanchor")), "middle")
        top = {"bottom": -9.0, "top": 9.0}.get(str(note.get("yanchor")), 0.0)
        if note.get("showarrow") is False or note.get("text"):
            colour = spec(note.get("font")).get("color")
            self._text(x, y + top, plain(note.get("text") or ""), size=SMALL, anchor=anchor, colour=colour)

    def _paint_axis(self, axis: Axis, across: Axis) -> None:
        """Draw ticks, labels and title of an axis along the side where the other axis begins."""
        if axis.letter == "x":
            self._paint_below(axis, max(across.start, across.end))
        else:
            self._paint_left(axis, min(across.start, across.end))

    def _paint_below(self, axis: Axis, y: float) -> None:
        angle, deep = self.angle(axis), 0.0
        if axis.layout.get("showticklabels") is not False:
            for at, text in axis.ticks():
                x, shown = axis.pixel(at), cut(text)
                self.drawing.line([(x, y), (x, y + 4)], self.muted)
                deep = max(deep, 18 if not angle else text_width(shown, TICK) * math.sin(math.radians(angle)) + 14)
                anchor = "end" if angle else "middle"
                self._text(x, y + (8 if angle else 13), shown, anchor=anchor, angle=-angle)
        title = title_of(axis.layout)
        if title:
            self._text((axis.start + axis.end) / 2, y + deep + 12, title, size=SMALL, anchor="middle")

    def _paint_left(self, axis: Axis, x: float) -> None:
        wide = 0.0
        if axis.layout.get("showticklabels") is not False:
            for at, text in axis.ticks():
                y, shown = axis.pixel(at), cut(text)
                self.drawing.line([(x - 4, y), (x, y)], self.muted)
                wide = max(wide, text_width(shown, TICK) + 8)
                self._text(x - 7, y, shown, anchor="end")
            wide += self._paint_groups(axis, x - wide - 12)
        title = title_of(axis.layout)
        if title:
            self._text(x - wide - 12, (axis.start + axis.end) / 2, title, size=SMALL, anchor="middle", angle=-90)

    def _paint_groups(self, axis: Axis, x: float) -> float:
        """Draw the first level of categories of two levels, upright. Return the room that it takes."""
        pairs = [c for c in axis.categories or [] if isinstance(c, tuple)]
        for group in dict.fromkeys(c[0] for c in pairs):
            rows = [i for i, c in enumerate(pairs) if c[0] == group]
            top, bottom = axis.pixel(rows[0] - 0.5), axis.pixel(rows[-1] + 0.5)
            self.drawing.line([(x + 8, top), (x + 8, bottom)], self.grid, 2)
            name = plain(group)
            room = abs(bottom - top)
            size = min(TICK, TICK * room / max(1.0, text_width(name, TICK)))
            self._text(x, (top + bottom) / 2, name, size=max(size, 6.5), anchor="middle", angle=-90, colour=self.muted)
        return 20.0 if pairs else 0.0

    def _paint_colour_bar(self, axis: Spec, x: float) -> None:
        bar, scale = spec(axis.get("colorbar")), ColourScale.of(axis)
        length = number(bar.get("len"), 1.0) * self.area
        middle = self.top + (1 - number(bar.get("y"), 0.5)) * self.area
        length = min(length, self.area)
        top, bottom = middle - length / 2 + 12, middle + length / 2
        steps = max(2, int(bottom - top) // 3)
        values = np.linspace(scale.high, scale.low, steps)
        colours = tuple((scale.colour(float(v)),) for v in values)
        self.drawing.shapes.append(Cells(x, top, 12, (bottom - top) / steps, colours))
        ticks = np.linspace(scale.low, scale.high, 5)
        if bar.get("tickvals") is not None:
            ticks = floats(bar.get("tickvals"))
        texts = [plain(t) for t in listed(bar.get("ticktext"))]
        step = (scale.high - scale.low) / 4
        for k, value in enumerate(ticks.tolist()):
            y = bottom - (value - scale.low) / (scale.high - scale.low) * (bottom - top)
            self._text(x + 16, y, texts[k] if k < len(texts) else tick_label(value, step), size=10.0)
        title = plain(spec(bar.get("title")).get("text") or "")
        middle = min(x + 6, self.width - 8 - text_width(title, SMALL) / 2)
        self._text(middle, top - 13, title, size=SMALL, anchor="middle")

    def _paint_table(self) -> None:
        for trace in self.traces:
            heads = [plain(v) for v in listed(spec(trace.get("header")).get("values"))]
            columns = [[plain(v) for v in listed(c)] for c in listed(spec(trace.get("cells")).get("values"))]
            widths = [max(text_width(t, TICK) for t in [h, *c]) + 24 for h, c in zip(heads, columns, strict=True)]
            spare = max(0.0, self.width - 28 - sum(widths)) / len(widths)
            x = 14.0
            for head, column, wide in zip(heads, columns, widths, strict=True):
                for k, text in enumerate([head, *column]):
                    y = self.top + 26 * k
                    self._text(x + 8, y + 13, text, colour=self.muted if k == 0 else self.ink)
                x += wide + spare
            rows = max((len(c) for c in columns), default=0)
            for k in range(rows + 1):
                y = self.top + 26 * (k + 1)
                self.drawing.line([(14, y), (self.width - 14, y)], self.grid)


__all__: Sequence[str] = ("draw",)
