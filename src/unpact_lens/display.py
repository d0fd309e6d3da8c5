"""Show results: one line as text, and one bundle of forms for notebooks.

A notebook front end takes the richest form that it knows:

- `application/vnd.plotly.v1+json`: the interactive figure, where plotly's extension is installed (JupyterLab, VS Code);
- `image/svg+xml`: the same figure as a picture, for GitHub, Colab, `nbconvert` and every other front end;
- `text/html`: coloured tokens, a verdict or a table, for results that are no figure. It holds no script and no link;
- `text/plain`: one line with the numbers that matter.
"""

from __future__ import annotations

import html
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from unpact_lens.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.plots.figure import Figure

LONGEST = 100
"""Largest number of characters of the text of a result."""

ROWS = 60
"""Largest number of rows of a table that a notebook shows."""


def one_line(name: str, text: str) -> str:
    """Write what is shown for a value: its class and a few numbers, in one line of at most 100 characters.

    Args:
        name: Name of the class.
        text: Numbers that matter, the most important first. Line ends are removed, and what is too long is cut.

    >>> one_line("KeyTokens", "3 tokens, mass 0.71")
    'KeyTokens(3 tokens, mass 0.71)'
    """
    return f"{name}({short(text, LONGEST - len(name) - 2)})"


def joined(parts: Iterable[object]) -> str:
    """Join parts by commas, without those that are empty.

    >>> joined(["3 tokens", "", "mass 0.71"])
    '3 tokens, mass 0.71'
    """
    return ", ".join(text for text in map(str, parts) if text)


def short(text: str, limit: int) -> str:
    """Return a text in one line of at most `limit` characters, with control characters made visible."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def quoted(text: str, limit: int = 32) -> str:
    """Return a shortened text in quotation marks.

    >>> quoted(" Reading the Sea ", 10)
    '“Reading t…”'
    """
    return f"“{short(text.strip(), limit)}”"


def estimate(row: object) -> str:
    """Write a row `[mean, low, high, n]` as a number with its interval.

    >>> estimate(torch.tensor([0.5, 0.25, 0.75, 8.0]))
    '+0.50 [+0.25, +0.75]'
    """
    mean, low, high = torch.as_tensor(row).flatten().tolist()[:3]
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def largest(values: object, names: Iterable[Iterable[str]]) -> str:
    """Name the largest finite entry of a table by absolute value.

    Args:
        values: Table of any number of axes.
        names: Names along each axis.

    >>> largest(torch.tensor([[0.1, -2.0], [1.0, 0.0]]), (("L0", "L1"), ("H0", "H1")))
    'largest −2.00 at L0H1'
    """
    table = torch.as_tensor(values).double().nan_to_num(0.0, 0.0, 0.0)
    if not table.numel():
        return "empty"
    place = torch.unravel_index(table.abs().argmax(), table.shape)
    at = "".join(list(axis)[int(i)] for axis, i in zip(names, place, strict=True))
    return f"largest {float(table[place]):+.2f} at {at}".replace("-", "−")


class Shown:
    """Show a result as text, in notebooks and as a figure.

    Class attributes:
        figure: `"module:function"` in `unpact_lens.plots` that draws this result. It is imported when it is called.
        view: `"module:function"` in `unpact_lens.plots` that returns HTML, which a notebook shows in place of the
            figure. Without view and figure, a notebook shows the table.
    """

    figure: ClassVar[str | None] = None
    view: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in cls.__dict__:  # `dataclass` would write one that prints every field
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return one_line(type(self).__name__, self._brief())

    def _brief(self) -> str:
        """Return the numbers that matter, for the text of the result. Override it in a class of your own."""
        if not is_dataclass(self):
            return ""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                parts.append(f"{field.name} {list(value.shape)}")
            elif isinstance(value, (int, float, str)):
                parts.append(f"{field.name}={value!r}")
        return ", ".join(parts)

    if TYPE_CHECKING:

        def to_frame(self) -> pd.DataFrame: ...  # noqa: D102

    def plot(self, what: str | None = None, **options: Any) -> Figure:
        """Draw the result as a plotly figure that shows itself, and saves itself by `.save("figure.png")`.

        Args:
            what: What is drawn, for results with several figures: `"components"`, `"heads"`, `"sources"` or `"tokens"`.
                If None, the first figure of the result.
            **options: Further keyword arguments of the function in `unpact_lens.plots` that draws this result.

        Raises:
            InputError: If this kind of result has no figure, or not the one or the option asked for.
        """
        name = type(self).__name__
        if self.figure is None:
            raise InputError(f"{name} has no figure; use .to_frame()")
        draw = in_plots(self.figure)
        asked = {**options, **({} if what is None else {"what": what})}
        known = [p.name for p in list(inspect.signature(draw).parameters.values())[1:]]
        if unknown := [option for option in asked if option not in known]:
            told = nearest(unknown[0], known) if known else "leave it out"
            raise InputError(f"the figure of a {name} has no option {unknown[0]!r}; {told}")
        drawn: Figure = draw(self, **asked)
        return drawn

    def _repr_html_(self) -> str:
        """Return the view, or the figure as an image, or the table. It needs no script and no network."""
        drawn = self._figure()
        if drawn is not None:
            return f"<p>{html.escape(repr(self))}</p>{drawn.img()}"
        return self._body()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return every form of the result for a notebook; see the module's docstring."""
        drawn = self._figure()
        forms: dict[str, Any] = {"text/plain": repr(self)}
        return {**(drawn._repr_mimebundle_() if drawn is not None else {"text/html": self._body()}), **forms}

    def _ipython_display_(self) -> None:
        """Show the bundle as it is. IPython would else add `_repr_html_`, which front ends prefer to the picture."""
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

    def _figure(self) -> Figure | None:
        """Return the figure that a notebook shows; None if the result has a view, no figure, or cannot be drawn."""
        if self.figure is None or self.view is not None:
            return None
        try:
            return self.plot()
        except InputError:
            return None

    def _body(self) -> str:
        """Return the view or the table as HTML."""
        if self.view is not None:
            return str(in_plots(self.view)(self))
        try:
            return f"<p>{html.escape(repr(self))}</p>{table_html(self.to_frame())}"
        except (TypeError, InputError):
            return f"<pre>{html.escape(repr(self))}</pre>"


def table_html(frame: pd.DataFrame) -> str:
    """Write a table as HTML with at most `ROWS` rows, and say how many are left out."""
    named = bool(frame.index.name)
    shown = frame.head(ROWS).to_html(border=0, float_format=lambda v: f"{v:.3f}", na_rep="–", index=named)
    rest = len(frame) - ROWS
    return shown + (f"<p>{rest} more rows; <code>.to_frame()</code> has all</p>" if rest > 0 else "")


def in_plots(name: str) -> Callable[..., Any]:
    """Import and return the function `"module:function"` of `unpact_lens.plots`."""
    module, function = name.split(":")
    draw: Callable[..., Any] = getattr(importlib.import_module(f"unpact_lens.plots.{module}"), function)
    return draw
