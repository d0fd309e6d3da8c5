"""Show the explorer in Jupyter, VS Code and Colab: requests and replies travel as custom messages of an anywidget."""

from __future__ import annotations

from pathlib import Path

import anywidget

from unpact_lens.explorer.session import ExplorerSession

ASSETS = Path(__file__).parent / "assets"


class ExplorerWidget(anywidget.AnyWidget):
    """Show an `ExplorerSession` in a notebook.

    Attributes:
        session: Session that answers the page's requests.
    """

    _esm = (ASSETS / "explorer.js").read_text(encoding="utf-8")
    _css = (ASSETS / "explorer.css").read_text(encoding="utf-8")

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__()
        self.session = session
        self.on_msg(self._reply)

    def __repr__(self) -> str:
        """Return one line."""
        return f"ExplorerWidget({self.session})"

    def _reply(self, widget: object, content: object, buffers: object) -> None:
        """Answer one message `{id, request}` of the page."""
        if isinstance(content, dict):
            self.send({"id": content.get("id"), **self.session.reply(content.get("request"))})
