"""Turn values into the colours of a figure's colour axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unpact_lens.plots import theme
from unpact_lens.plots.static_axes import Spec, listed, number


@dataclass(frozen=True)
class ColourScale:
    """Hold a colour scale with its ends."""

    stops: tuple[tuple[float, tuple[int, int, int]], ...]
    low: float
    high: float

    @classmethod
    def of(cls, axis: Spec) -> ColourScale:
        """Read a colour axis of a figure."""
        pairs = [listed(pair) for pair in listed(axis.get("colorscale"))] or [[s, c] for s, c in theme.DIVERGING]
        stops = tuple((number(at), theme.channels(str(colour))[:3]) for at, colour in pairs)
        return cls(stops, number(axis.get("cmin"), -1.0), number(axis.get("cmax"), 1.0))

    def colour(self, value: float) -> str:
        """Return the colour of a value; grey if it is undefined."""
        if not math.isfinite(value):
            return "#d9d9d9"
        place = min(max((value - self.low) / ((self.high - self.low) or 1.0), 0.0), 1.0)
        place = round(place * 64) / 64  # few colours: a map of many cells stays small
        ats = [at for at, _ in self.stops]
        red, green, blue = (round(float(np.interp(place, ats, [c[k] for _, c in self.stops]))) for k in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"

    def ink(self, value: float) -> str:
        """Return a colour of text that is legible on the colour of a value."""
        red, green, blue, _ = theme.channels(self.colour(value))
        return theme.legible((red, green, blue))
