"""Read the style of a trace as plotly does: dashes, what is given once or for each point, colour scales, cell texts."""

from __future__ import annotations

import math
import re

import numpy as np

from unpact_lens.plots.static_axes import Spec, floats, listed, number, plain, spec

DRAWN = frozenset({"bar", "box", "heatmap", "scatter", "table", "waterfall"})
"""Trace types that the static pictures show."""


def undrawn(figure: Spec) -> list[str]:
    """Return what a static picture of a figure would leave out or draw otherwise: types of visible traces, and stacks.

    >>> undrawn({"data": [{"type": "bar"}, {"type": "pie"}, {"type": "violin", "visible": False}]})
    ['pie']
    >>> undrawn({"data": [{"type": "bar"}, {"type": "bar"}], "layout": {"barmode": "stack"}})
    ['bars of barmode stack']
    >>> undrawn({"data": [{"type": "box", "boxpoints": "all"}, {"type": "box"}]})
    ['box without boxpoints all']
    """
    shown = [t for t in map(spec, listed(figure.get("data"))) if t.get("visible", True) is True]
    kinds = [str(t.get("type") or "scatter") for t in shown]
    mode = spec(figure.get("layout")).get("barmode")
    stacked = [f"bars of barmode {mode}"] if mode in ("stack", "relative") and kinds.count("bar") > 1 else []
    boxes = any(t.get("type") == "box" and t.get("boxpoints") != "all" for t in shown)  # drawn are points only
    return [*sorted(set(kinds) - DRAWN), *stacked, *["box without boxpoints all"] * boxes]


def dash(line: Spec, long: float) -> float:
    """Return the length of the dashes of a line in pixels; 0 if it is solid.

    >>> dash({"dash": "solid"}, 4.0), dash({}, 4.0), dash({"dash": "dot"}, 4.0)
    (0.0, 0.0, 4.0)
    """
    return 0.0 if line.get("dash") in (None, "", "solid") else long


def each(value: object, count: int, default: object) -> list[object]:
    """Return a value for each point: those of a list, or one for all of them.

    >>> each(["circle", "circle-open"], 2, "circle"), each(None, 2, 7)
    (['circle', 'circle-open'], [7, 7])
    """
    several = listed(value)
    return several or [default if value is None else value] * count


def colour_axis(trace: Spec, layout: Spec) -> Spec:
    """Return the colour axis of a map: the one that it names, or one made of its own scale and ends."""
    if trace.get("coloraxis") or not trace.keys() & {"colorscale", "zmin", "zmax", "zmid"}:
        return spec(layout.get(str(trace.get("coloraxis") or "coloraxis")))
    values = [v for row in listed(trace.get("z")) for v in floats(row).tolist() if math.isfinite(v)] or [0.0, 1.0]
    low, high = number(trace.get("zmin"), min(values)), number(trace.get("zmax"), max(values))
    middle = number(trace.get("zmid"))
    if math.isfinite(middle):
        reach = max(high - middle, middle - low)
        low, high = middle - reach, middle + reach
    own = {k: trace[k] for k in ("colorscale", "colorbar", "showscale") if k in trace}
    return {"cmin": low, "cmax": high, **own}


def cell_text(trace: Spec, row: int, column: int, value: float) -> str:
    """Return what `texttemplate` writes into a cell of a map.

    >>> trace = {"texttemplate": "%{text}: %{z:.1f}", "text": [["a", "b*"]]}
    >>> cell_text(trace, 0, 1, -0.25)
    'b*: −0.2'
    """
    texts = listed(trace.get("text"))
    own = listed(texts[row]) if row < len(texts) else []
    known = {"z": value, "text": own[column] if column < len(own) else ""}

    def filled(found: re.Match[str]) -> str:
        what = known.get(found[1], "")
        return f"{what:{found[2] or ''}}" if isinstance(what, (float, np.floating)) else str(what)

    return plain(re.sub(r"%\{(\w+)(?::([^}]*))?\}", filled, str(trace.get("texttemplate") or ""))).replace("-", "−")
