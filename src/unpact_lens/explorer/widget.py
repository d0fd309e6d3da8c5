"""Show the explorer in Jupyter, VS Code and Colab: requests and replies travel as custom messages of an anywidget."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from unpact_lens.explorer.session import ExplorerSession

if TYPE_CHECKING:
    from anywidget import AnyWidget

ASSETS = Path(__file__).parent / "assets"


def explorer_widget(session: ExplorerSession) -> AnyWidget:
    """Make the widget of a session.

    Args:
        session: Session that answers the page's requests; it is the widget's `session`.

    Raises:
        ImportError: If anywidget is missing.
    """
    return _widget_class()(session)


@functools.cache
def _widget_class() -> type[AnyWidget]:
    """Define the class of the widget, whose base is in an optional package."""
    import anywidget

    class ExplorerWidget(anywidget.AnyWidget):
        """Show an `ExplorerSession` in a notebook."""

        _esm = (ASSETS / "explorer.js").read_text(encoding="utf-8")
        _css = (ASSETS / "explorer.css").read_text(encoding="utf-8")

        def __init__(self, session: ExplorerSession) -> None:
            super().__init__()
            self.session = session
            self.on_msg(self._reply)

        def __repr__(self) -> str:
            return f"ExplorerWidget({self.session})"

        def _reply(self, widget: object, content: object, buffers: object) -> None:
            """Answer one message `{id, request}` of the page."""
            if isinstance(content, dict):
                self.send({"id": content.get("id"), **self.session.reply(content.get("request"))})

    return ExplorerWidget
