"""Draw rectangles, lines, polygons and text, and write them as SVG or PNG, without a browser.

Coordinates are pixels from the upper left corner. The font is a subset of DejaVu Sans that the package ships, so a
picture looks the same on every machine.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

from PIL import Image, ImageColor, ImageDraw, ImageFont

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

SCALE = 2
"""Pixels of a PNG for each pixel of the drawing."""

COLOURS = 128
"""Colours in the palette of a PNG. Maps hold few colours, and a palette makes the file about three times smaller."""

FAMILY = "Inter, 'Segoe UI', system-ui, 'Helvetica Neue', Arial, sans-serif"
"""Fonts of an SVG. Their glyphs are narrower than those of DejaVu Sans, for which the layout leaves room."""


@runtime_checkable
class Shape(Protocol):
    """Write itself as SVG, and draw itself on an image."""

    # ruff: noqa: D102
    def svg(self) -> str: ...

    def paint(self, image: ImageDraw.ImageDraw) -> None: ...


@dataclass(frozen=True)
class Polygon:
    """Hold a filled polygon with an optional outline. Colours are CSS, and an empty colour draws nothing."""

    points: tuple[Point, ...]
    fill: str = ""
    stroke: str = ""
    width: float = 1.0

    def svg(self) -> str:
        points = [(round(x, 1), round(y, 1)) for x, y in self.points]  # so that steps add up
        steps = " ".join(f"{_n(b[0] - a[0])} {_n(b[1] - a[1])}" for a, b in pairwise(points))
        d = f"M{_n(points[0][0])} {_n(points[0][1])}l{steps}z"
        return f"<path d='{d}'{_fill(self.fill)}{_stroke(self.stroke, self.width)}/>"

    def paint(self, image: ImageDraw.ImageDraw) -> None:
        corners = [(x * SCALE, y * SCALE) for x, y in self.points]
        if self.fill:
            image.polygon(corners, fill=_rgba(self.fill))
        if self.stroke:
            image.line([*corners, corners[0]], fill=_rgba(self.stroke), width=_pixels(self.width))


@dataclass(frozen=True)
class Line:
    """Hold a line through points, with an optional dash of equal length and gap in pixels."""

    points: tuple[Point, ...]
    stroke: str
    width: float = 1.0
    dash: float = 0.0

    def svg(self) -> str:
        d = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in self.points)
        dash = f" stroke-dasharray='{_n(self.dash)}'" if self.dash else ""
        return f"<path d='{d}' fill='none'{_stroke(self.stroke, self.width)}{dash}/>"

    def paint(self, image: ImageDraw.ImageDraw) -> None:
        for part in self._dashes() if self.dash else [self.points]:
            image.line([(x * SCALE, y * SCALE) for x, y in part], fill=_rgba(self.stroke), width=_pixels(self.width))

    def _dashes(self) -> list[tuple[Point, ...]]:
        """Cut each segment into dashes."""
        parts: list[tuple[Point, ...]] = []
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False):
            n = max(1, int(math.hypot(x1 - x0, y1 - y0) // (2 * self.dash)))
            for k in range(n):
                a, b = k / n, (k + 0.5) / n
                start, end = ((x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (a, b))
                parts.append((start, end))
        return parts


@dataclass(frozen=True)
class Label:
    """Hold one line of text, turned by `angle` degrees clockwise around its anchor, centred on the line `y`."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    anchor: Anchor = "start"
    angle: float = 0.0

    def svg(self) -> str:
        turn = f" transform='rotate({_n(self.angle)} {_n(self.x)} {_n(self.y)})'" if self.angle else ""
        anchor = "" if self.anchor == "start" else f" text-anchor='{self.anchor}'"
        return (
            f"<text x='{_n(self.x)}' y='{_n(self.y)}' dy='.35em' font-size='{_n(self.size)}'{_fill(self.colour)}"
            f"{anchor}{turn}>{html.escape(self.text)}</text>"
        )

    def paint(self, image: ImageDraw.ImageDraw) -> None:
        face = font(self.size * SCALE)
        wide = face.getlength(self.text)
        shift = {"start": 0.0, "middle": wide / 2, "end": wide}[self.anchor]
        x, y = self.x * SCALE, self.y * SCALE
        if not self.angle:
            image.text((x - shift, y), self.text, font=face, fill=_rgba(self.colour), anchor="lm")
            return
        # Text is drawn on a mask of its own, turned around its anchor, and put on the picture in its colour.
        reach = math.ceil(max(shift, wide - shift) + 2 * self.size * SCALE)
        mask = Image.new("L", (2 * reach, 2 * reach))
        ImageDraw.Draw(mask).text((reach - shift, reach), self.text, font=face, fill=255, anchor="lm")
        mask = mask.rotate(-self.angle, resample=Image.Resampling.BICUBIC)
        image.bitmap((round(x) - reach, round(y) - reach), mask, fill=_rgba(self.colour))


@dataclass(frozen=True)
class Cells:
    """Hold a map of cells of one size, row by row. Neighbours of one colour are one rectangle in an SVG.

    Attributes:
        left: Left edge.
        top: Upper edge.
        width: Width of a cell.
        height: Height of a cell.
        colours: Colour of each cell, row by row from the top. An empty colour leaves a hole.
        gap: Space between cells, in pixels.
    """

    left: float
    top: float
    width: float
    height: float
    colours: tuple[tuple[str, ...], ...]
    gap: float = 0.0

    def svg(self) -> str:
        paths: dict[str, list[str]] = {}
        across, down = self.gap / self.width, self.gap / self.height
        for row, colours in enumerate(self.colours):
            start = 0
            for column in range(1, len(colours) + 1):
                if column < len(colours) and colours[column] == colours[start] and not self.gap:
                    continue
                wide = f"{column - start - across:.4g}"
                paths.setdefault(colours[start], []).append(f"M{start} {row}h{wide}v{1 - down:.4g}h-{wide}z")
                start = column
        shift = f"translate({_n(self.left)} {_n(self.top)}) scale({self.width:.4g} {self.height:.4g})"
        body = "".join(f"<path d='{''.join(d)}'{_fill(c)}/>" for c, d in paths.items() if c)
        return f"<g transform='{shift}' shape-rendering='crispEdges'>{body}</g>"

    def paint(self, image: ImageDraw.ImageDraw) -> None:
        for row, colours in enumerate(self.colours):
            top, bottom = self.top + row * self.height, self.top + (row + 1) * self.height - self.gap
            for column, colour in enumerate(colours):
                left, right = self.left + column * self.width, self.left + (column + 1) * self.width - self.gap
                if colour:
                    box = [round(v * SCALE) for v in (left, top, right, bottom)]
                    image.rectangle([box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)], _rgba(colour))


@dataclass
class Drawing:
    """Collect shapes on a page, the later ones on top.

    Attributes:
        width: Width of the page, pixels.
        height: Height of the page, pixels.
        background: Colour of the page.
        title: Text that stands for the picture where it is not seen.
    """

    width: float
    height: float
    background: str = "#FFFFFF"
    title: str = ""
    shapes: list[Shape] = field(default_factory=list)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: str, stroke: str = "") -> None:
        """Add a rectangle."""
        self.shapes.append(Polygon(((left, top), (right, top), (right, bottom), (left, bottom)), fill, stroke))

    def line(self, points: Sequence[Point], stroke: str, width: float = 1.0, dash: float = 0.0) -> None:
        """Add a line through points."""
        if len(points) > 1:
            self.shapes.append(Line(tuple(points), stroke, width, dash))

    def svg(self) -> str:
        """Write the drawing as an SVG document."""
        body = "".join(shape.svg() for shape in self.shapes)
        wide, high = _n(self.width), _n(self.height)
        named = html.escape(self.title)
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {wide} {high}' width='{wide}' height='{high}' "
            f"role='img' font-family=\"{FAMILY}\"><title>{named}</title>"
            f"<rect width='100%' height='100%'{_fill(self.background)}/>{body}</svg>"
        )

    def image(self) -> Image.Image:
        """Paint the drawing as an image of `SCALE` times its size."""
        page = Image.new("RGB", (math.ceil(self.width * SCALE), math.ceil(self.height * SCALE)), self.background)
        canvas = ImageDraw.Draw(page, "RGBA")
        for shape in self.shapes:
            shape.paint(canvas)
        return page

    def png(self) -> bytes:
        """Write the drawing as a PNG with a palette."""
        small = self.image().quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        file = io.BytesIO()
        small.save(file, "png", optimize=True, dpi=(96 * SCALE, 96 * SCALE))
        return file.getvalue()


@cache
def font(size: float) -> ImageFont.FreeTypeFont:
    """Return the font at a size in pixels."""
    file = (resources.files("unpact_lens.plots") / "assets" / "DejaVuSans.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(file), size)


def text_width(text: str, size: float) -> float:
    """Measure a line of text, pixels."""
    return float(font(size).getlength(text))


def marker(symbol: str, x: float, y: float, size: float, colour: str, width: float = 2.0) -> list[Shape]:
    """Build a marker of plotly's name, centred on a point: `"circle"`, `"square-open"`, `"x-thin"`.

    A name that is unknown is drawn as a circle.
    """
    name, open_ = symbol.removesuffix("-open"), symbol.endswith("-open")
    r = size / 2
    if name == "x-thin":
        return [Line(((x - r, y + up * r), (x + r, y - up * r)), colour, width) for up in (1, -1)]
    if name == "line-ew":
        return [Line(((x - r, y), (x + r, y)), colour, width)]
    points = tuple((x + r * u, y + r * v) for u, v in _MARKERS.get(name, _MARKERS["circle"]))
    return [Polygon(points, "" if open_ else colour, colour, width if open_ else 0.5)]


def _regular(n: int, turn: float = 0.0, inner: float | None = None) -> tuple[Point, ...]:
    """Return the corners of a regular polygon, or of a star with an inner radius, the first one upwards."""
    steps = n if inner is None else 2 * n
    angles = [2 * math.pi * k / steps - math.pi / 2 + turn for k in range(steps)]
    radii = [inner if inner is not None and k % 2 else 1.0 for k in range(steps)]
    return tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True))


_CROSS = ((-0.4, -1), (0.4, -1), (0.4, -0.4), (1, -0.4), (1, 0.4), (0.4, 0.4), (0.4, 1), (-0.4, 1), (-0.4, 0.4),
          (-1, 0.4), (-1, -0.4), (-0.4, -0.4))  # fmt: skip
_MARKERS: dict[str, tuple[Point, ...]] = {
    "circle": _regular(16),  # at a radius of 6 pixels, 0.1 pixels from a circle
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "triangle-up": ((0, -1.1), (1.1, 0.9), (-1.1, 0.9)),
    "cross": _CROSS,
    "star": _regular(5, inner=0.45),
    "pentagon": _regular(5),
    "hexagon": _regular(6),
}


def _n(value: float) -> str:
    """Write a coordinate with at most one decimal."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _fill(colour: str) -> str:
    if not colour:
        return " fill='none'"
    red, green, blue, opacity = _rgba(colour)
    faint = f" fill-opacity='{opacity / 255:.2g}'" if opacity < 255 else ""
    return f" fill='#{red:02x}{green:02x}{blue:02x}'{faint}"


def _stroke(colour: str, width: float) -> str:
    if not colour:
        return ""
    red, green, blue, opacity = _rgba(colour)
    faint = f" stroke-opacity='{opacity / 255:.2g}'" if opacity < 255 else ""
    return f" stroke='#{red:02x}{green:02x}{blue:02x}' stroke-width='{_n(width)}'{faint}"


@cache
def _rgba(colour: str) -> tuple[int, int, int, int]:
    """Read a CSS colour: a name, `#rrggbb`, `rgb(…)` or `rgba(…)`."""
    if colour.startswith("rgb"):
        numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")]
        red, green, blue = (round(c) for c in numbers[:3])
        return red, green, blue, round(255 * (numbers[3] if len(numbers) > 3 else 1.0))
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue, 255


def _pixels(width: float) -> int:
    return max(1, round(width * SCALE))
