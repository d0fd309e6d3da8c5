"""Show progress on stderr: one display for every long call, silent where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """Report the progress of one call.

    Args:
        title: Name of the call, shown beside the bar.
        progress: Display of rich. If None, nothing is shown.
        total: Number of units. If None, the bar is indeterminate.
    """

    def __init__(self, title: str, progress: Progress | None, total: int | None) -> None:
        self.title = title
        self._progress = progress
        self._task = None if progress is None else progress.add_task(title, total=total)

    @property
    def shown(self) -> bool:
        """Return whether a terminal displays this bar."""
        return self._progress is not None

    def step(self, n: int = 1) -> None:
        """Advance by `n` units."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, n)

    def at(self, done: int, total: int | None = None) -> None:
        """Set how many units are done, and the total if it has changed."""
        if self._progress is not None and self._task is not None:
            if total is not None:
                self._progress.update(self._task, completed=done, total=total)
            else:
                self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """Replace the text beside the bar, e.g. by the name of the current phase."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{self.title}: {text}")


@contextmanager
def progress_bar(title: str, total: int | None = None, *, shown: bool = True) -> Iterator[Bar]:
    """Open one progress bar on stderr.

    Args:
        title: Name of the call, shown beside the bar.
        total: Number of units. If None, an indeterminate bar is shown.
        shown: If False, nothing is shown. Nothing is shown either where stderr is not a terminal.

    Yields:
        The bar; call `step`, `at` or `say` on it.
    """
    if not shown or not sys.stderr.isatty():
        yield Bar(title, None, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(title, progress, total)


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
