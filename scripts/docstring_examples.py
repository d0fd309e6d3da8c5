"""Show the doctests of docstrings as code in the documentation: an extension of griffe that `mkdocs.yml` names.

Markdown reads `>>>` as three levels of quotation, and a list in the output as a link. Each run of doctest lines becomes
a block of code.
"""

from __future__ import annotations

from typing import Any

import griffe


class DocstringExamples(griffe.Extension):
    """Turn doctests into blocks of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """Put each run of doctest lines between fences; a run ends at an empty line."""
    lines: list[str] = []
    indent: str | None = None  # that of the run, while in one
    for line in docstring.split("\n"):
        if indent is None and line.lstrip().startswith(">>>"):
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}```pycon")
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    if indent is not None:
        lines.append(f"{indent}```")
    return "\n".join(lines)
