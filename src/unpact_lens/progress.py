"""Show progress: one display for every long call, on a terminal or in a notebook, and silent elsewhere."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Display(Protocol):
    """Show the state of one bar."""

    # ruff: noqa: D102
    def update(self, title: str, done: int, total: int | None) -> None: ...

    def close(self) -> None: ...


class Bar:
    """Report the progress of one call.

    Args:
        title: Name of the call, shown beside the bar.
        display: Display of the bar. If None, nothing is shown.
        total: Number of units. If None, the bar is indeterminate.
    """

    def __init__(self, title: str, display: Display | None, total: int | None) -> None:
        self.title = self._said = title
        self._display = display
        self._done, self._total = 0, total
        self._show()

    @property
    def shown(self) -> bool:
        """Return whether a terminal or a notebook displays this bar."""
        return self._display is not None

    def step(self, n: int = 1) -> None:
        """Advance by `n` units."""
        self._done += n
        self._show()

    def at(self, done: int, total: int | None = None) -> None:
        """Set how many units are done, and the total if it has changed."""
        self._done, self._total = done, self._total if total is None else total
        self._show()

    def say(self, text: str) -> None:
        """Replace the text beside the bar, e.g. by the name of the current phase."""
        self._said = f"{self.title}: {text}"
        self._show()

    def _show(self) -> None:
        if self._display is not None:
            self._display.update(self._said, self._done, self._total)


class TerminalDisplay:
    """Show a bar on stderr, and remove it in the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def update(self, title: str, done: int, total: int | None) -> None:
        """Show the state."""
        self._progress.update(self._task, description=title, completed=done, total=total)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


class NotebookDisplay:
    """Show a bar below the cell of a notebook, without widgets or scripts, and remove it in the end."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(""), display_id=True)
        self._start = self._last = time.monotonic()

    def update(self, title: str, done: int, total: int | None) -> None:
        """Show the state, at most four times a second."""
        now = time.monotonic()
        if now - self._last < 0.25 or self._handle is None:
            return
        self._last = now
        self._handle.update(self._html(bar_html(title, done, total, now - self._start)))

    def close(self) -> None:
        """Remove the bar, so that a saved notebook does not hold it."""
        if self._handle is not None:
            self._handle.update(self._html(""))


def bar_html(title: str, done: int, total: int | None, seconds: float) -> str:
    """Write a bar as HTML.

    >>> bar_html("training", 3, 10, 65)
    '<label>training <progress value="3" max="10"></progress> 3/10, 1:05</label>'
    """
    filled = f'value="{done}" max="{total}"' if total else ""
    count = f"{done}/{total}" if total else str(done)
    time_ = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    return f"<label>{html.escape(title)} <progress {filled}></progress> {count}, {time_}</label>"


def in_notebook() -> bool:
    """Return whether this code runs in the kernel of a notebook (Jupyter, VS Code, Colab)."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def progress_bar(title: str, total: int | None = None, *, shown: bool = True) -> Iterator[Bar]:
    """Open one progress bar, on stderr or below the cell of a notebook.

    Args:
        title: Name of the call, shown beside the bar.
        total: Number of units. If None, an indeterminate bar is shown.
        shown: If False, nothing is shown. Nothing is shown either where stderr is not a terminal, outside notebooks.

    Yields:
        The bar; call `step`, `at` or `say` on it.
    """
    display: Display | None = None
    if shown and in_notebook():
        display = NotebookDisplay()
    elif shown and sys.stderr.isatty():
        display = TerminalDisplay()
    try:
        yield Bar(title, display, total)
    finally:
        if display is not None:
            display.close()


@contextmanager
def step_bar(title: str, total: int, *, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Show named steps: a bar on a terminal or in a notebook, one line for each step elsewhere.

    Args:
        title: Name of the call, shown beside the bar.
        total: Number of steps.
        shown: If False, nothing is shown.

    Yields:
        A function to call with the name of each step.
    """
    with progress_bar(title, total, shown=shown) as bar:

        def step(text: str) -> None:
            if bar.shown:
                bar.say(text)
                bar.step()
            elif shown:
                print(text, file=sys.stderr, flush=True)

        yield step


@contextmanager
def transformers_progress() -> Iterator[None]:
    """Hide the progress bars of transformers within the block if stderr is not a terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
