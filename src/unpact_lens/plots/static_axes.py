"""Place the axes of a figure on a page: categories, ranges, ticks and their labels."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Letter = Literal["x", "y"]
Values = Sequence[object]
Spec = Mapping[str, object]
"""Part of a figure as plotly writes it: a trace, an axis, an annotation."""


def spec(value: object) -> Spec:
    """Return a part of a figure, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: object, default: float = math.nan) -> float:
    """Return a number of a figure, or the default if it is absent."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return float(value)
    return default


def listed(value: object) -> list[object]:
    """Return a list of values of a figure: of a tuple, an array, a table's column, or nothing."""
    if isinstance(value, Mapping) and "bdata" in value:
        value = _decoded(value)
    if value is None or isinstance(value, (str, Mapping)):
        return []
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    return list(value) if isinstance(value, Iterable) else []


def _decoded(value: Spec) -> NDArray[np.float64]:
    """Read an array that plotly has written as base64."""
    flat = np.frombuffer(base64.b64decode(str(value["bdata"])), dtype=np.dtype(str(value["dtype"])))
    shape = [int(n) for n in str(value["shape"]).split(",")] if value.get("shape") else [-1]
    return flat.reshape(shape)


def floats(value: object) -> NDArray[np.float64]:
    """Return values of a figure as numbers. What is no number is NaN."""
    return np.array([number(v) for v in listed(value)], dtype=np.float64)


def plain(text: object) -> str:
    """Return a label as plain text: without tags, entities read.

    >>> plain("a&lt;b<br><b>c</b>")
    'a<b c'
    """
    return html.unescape(re.sub(r"</?(?:b|i|sub|sup)>", "", str(text).replace("<br>", " ")))


@dataclass
class Axis:
    """Hold an axis: where it lies on the page, what it shows, and how it is labelled.

    Attributes:
        letter: `"x"` or `"y"`.
        layout: Its options, as plotly writes them.
        categories: Categories in order, or None for numbers.
        low: Value at the left or lower end.
        high: Value at the right or upper end. Less than `low` on a reversed axis.
        start: Pixel of `low`.
        end: Pixel of `high`.
    """

    letter: Letter
    layout: Spec
    categories: list[object] | None = None
    low: float = 0.0
    high: float = 1.0
    start: float = 0.0
    end: float = 1.0
    known: dict[object, int] = field(default_factory=dict)

    @property
    def log(self) -> bool:
        """Return whether coordinates are decimal logarithms of the values."""
        return self.layout.get("type") == "log"

    @property
    def domain(self) -> tuple[float, float]:
        """Share of the plot area, from 0 to 1."""
        ends = listed(self.layout.get("domain"))
        return (number(ends[0]), number(ends[1])) if len(ends) == 2 else (0.0, 1.0)

    @property
    def length(self) -> float:
        """Length in pixels."""
        return abs(self.end - self.start)

    def at(self, value: object) -> float:
        """Return the coordinate of a value: the index of a category, or the number, on a log axis its logarithm.

        Return NaN for what has no coordinate.
        """
        if self.categories is None:
            found = number(value, _read(value))
            return found if not self.log else math.log10(found) if found > 0 else math.nan
        if value not in self.known and str(value) not in self.known:
            return number(value)
        return float(self.known[value] if value in self.known else self.known[str(value)])

    def moved(self, coordinate: float, by: float) -> float:
        """Return the coordinate of a value that differs by a number; on a log axis, the low end if it is not positive.

        >>> Axis("x", {"type": "log"}, low=-1.0).moved(1.0, 90.0), Axis("x", {}).moved(1.0, 90.0)
        (2.0, 91.0)
        """
        if not self.log:
            return coordinate + by
        value = 10**coordinate + by
        return math.log10(value) if value > 0 else min(self.low, self.high)

    def pixel(self, coordinate: float) -> float:
        """Return the pixel of a coordinate."""
        return self.start + (coordinate - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return coordinate and label of each tick."""
        if self.layout.get("tickvals") is not None:
            texts = listed(self.layout.get("ticktext")) or listed(self.layout.get("tickvals"))
            return [(self.at(v), plain(t)) for v, t in zip(listed(self.layout["tickvals"]), texts, strict=False)]
        if self.categories is not None:
            room = max(1, int(self.length // 11))
            every = max(int(number(self.layout.get("dtick"), 1)), -(-len(self.categories) // room))
            names = [c[-1] if isinstance(c, tuple) else c for c in self.categories]
            return [(float(i), plain(names[i])) for i in range(0, len(names), every)]
        low, high = sorted((self.low, self.high))
        if self.log:
            powers = range(math.floor(low), math.ceil(high) + 1)
            steps = (1, 2, 5) if high - low < 3 else (1,)
            values = [step * 10.0**power for power in powers for step in steps]
            return [(math.log10(v), f"{v:g}") for v in values if low <= math.log10(v) <= high]
        wide = 70 if self.letter == "x" else 40
        step = number(self.layout.get("dtick"), _nice((high - low) / max(2.0, self.length / wide)))
        first = math.ceil((low - 1e-9) / step)
        style = str(self.layout.get("tickformat") or "")
        return [(k * step, tick_label(k * step, step, style)) for k in range(first, int((high + 1e-9) // step) + 1)]


def tick_label(value: float, step: float, style: str = "") -> str:
    """Write a number at a tick, with as many decimals as the step between ticks has.

    >>> tick_label(-0.5, 0.25), tick_label(7.5, 2.5), tick_label(20000, 5000), tick_label(0.3, 0.1, ".0%")
    ('−0.50', '7.5', '20k', '30%')
    """
    if style.endswith("%"):
        text = f"{value:{style}}"
    elif value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        text = f"{value:.2g}"
    elif step >= 1000:
        text = f"{value / 1000:g}k"
    else:
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        # A step such as 0.25 or 2.5 has one decimal more than its size says.
        decimals += abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6
        text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(value) else text.replace("-", "")


def _nice(step: float) -> float:
    """Round a step up to 1, 2, 2.5 or 5 times a power of ten."""
    if not math.isfinite(step) or step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * 0.999)


def _read(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def axis_values(trace: Spec, letter: Letter) -> list[object]:
    """Return the values of a trace along an axis. Categories of two levels are pairs."""
    values = listed(trace.get(letter))
    if values and all(isinstance(v, (list, tuple, np.ndarray)) for v in values):
        return list(zip(*(listed(v) for v in values), strict=True))
    if not values and trace.get("type") == "heatmap":
        rows = listed(trace.get("z"))
        n = len(listed(rows[0])) if rows and letter == "x" else len(rows)
        return list(range(n))
    return values


def make_axis(letter: Letter, layout: Spec, traces: Sequence[Spec], marks: Sequence[float] = ()) -> Axis:
    """Build an axis from its options and what is on it: categories, or the range of the numbers.

    Args:
        letter: `"x"` or `"y"`.
        layout: Its options, as plotly writes them.
        traces: Traces on it.
        marks: Coordinates of shapes on it, which the range of numbers holds too.
    """
    values = [v for trace in traces for v in axis_values(trace, letter)]
    words = any(isinstance(v, (str, tuple)) and math.isnan(_read(v)) for v in values)
    if layout.get("type") in ("category", "multicategory") or (layout.get("type") is None and words):
        categories = list(dict.fromkeys(str(v) if not isinstance(v, tuple) else v for v in values))
        if any(isinstance(c, tuple) for c in categories):  # the groups stay together
            groups = list(dict.fromkeys(c[0] for c in categories if isinstance(c, tuple)))
            categories = [c for g in groups for c in categories if isinstance(c, tuple) and c[0] == g]
        if layout.get("categoryorder") in (None, "array"):
            first = [c for c in listed(layout.get("categoryarray")) if c in categories]
            categories = [*first, *(c for c in categories if c not in first)]
        axis = Axis(letter, layout, list(categories), -0.5, len(categories) - 0.5)
        axis.known = {c: i for i, c in enumerate(categories)}
    else:
        axis = Axis(letter, layout, None, *_extent(letter, layout, traces, marks))
    ends = [number(v) for v in listed(layout.get("range"))]
    if len(ends) == 2:
        axis.low, axis.high = ends
    elif layout.get("autorange") == "reversed":
        axis.low, axis.high = axis.high, axis.low
    return axis


def _extent(letter: Letter, layout: Spec, traces: Sequence[Spec], marks: Sequence[float]) -> tuple[float, float]:
    """Return the range of the numbers on an axis, with room around them."""
    log = layout.get("type") == "log"  # where nothing is at zero
    low, high, tight, zero = math.inf, -math.inf, False, layout.get("rangemode") == "tozero" and not log
    for trace in traces:
        kind = trace.get("type", "scatter")
        values = np.array([_read(v) for v in axis_values(trace, letter)], dtype=np.float64)
        long = "x" if trace.get("orientation") == "h" else "y"
        if kind == "waterfall" and letter == long:
            values = np.array(waterfall_steps(trace)).ravel()
        bars = spec(trace.get(f"error_{letter}"))
        if len(errors := floats(bars.get("array"))) == len(values):
            below = floats(bars.get("arrayminus")) if bars.get("arrayminus") is not None else errors
            values = np.concatenate([values, values + errors, values - below])
        if kind == "heatmap":
            values, tight = np.concatenate([values - 0.5, values + 0.5]), True
        elif kind in ("bar", "waterfall"):
            zero |= letter == long and not log
            values = values if letter == long else np.concatenate([values - 0.5, values + 0.5])
        if log:
            values = np.log10(values[values > 0])
        values = values[np.isfinite(values)]
        if len(values):
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:
        return 0.0, 1.0
    low, high = (f([end, *(m for m in marks if math.isfinite(m))]) for f, end in ((min, low), (max, high)))
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.0 if tight else 0.05 * ((high - low) or abs(high) or 1.0)
    return low - room * (not zero or low < 0), high + room * (not zero or high > 0)


def waterfall_steps(trace: Spec) -> list[tuple[float, float]]:
    """Return the lower and upper end of each step of a waterfall, in the order of its values: from, to."""
    steps: list[tuple[float, float]] = []
    total = 0.0
    measures = listed(trace.get("measure"))
    for k, value in enumerate(floats(trace.get("y")).tolist()):
        absolute = k < len(measures) and measures[k] in ("total", "absolute")
        steps.append((0.0, total if absolute else total + value) if absolute else (total, total + value))
        total = total if absolute else total + value
    return steps
