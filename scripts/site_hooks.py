"""Turn committed notebooks into pages while mkdocs builds the site: a hook of `mkdocs.yml`.

A page shows the cells and outputs as they are committed; nothing is executed. A figure is drawn from its data, in
light mode and in dark mode. Pages need no script and no network. Links to
notebooks in Markdown become links to their pages.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"
HIDDEN = "install"
"""Tag of cells that a page leaves out: what Colab needs to install."""

BADGE = re.compile(r"^\[!\[Open in Colab\].*\n*", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page, and its pictures, for each notebook."""
    from mkdocs.structure.files import File

    for file in list(files):
        if file.src_uri.endswith(".ipynb") and file.abs_src_path:
            for name, content in page(json.loads(Path(file.abs_src_path).read_text(encoding="utf-8")), file.src_uri):
                files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Link to pages in place of notebooks."""
    return re.sub(r"\]\((?!http)([^)\s]+)\.ipynb(#[^)]*)?\)", r"](\1.md\2)", markdown)


def page(notebook: dict[str, Any], uri: str) -> Iterator[tuple[str, str | bytes]]:
    """Return the page of a notebook and its pictures.

    Args:
        notebook: Content of the notebook file.
        uri: Path of the notebook in the documentation, e.g. `tutorials/audit.ipynb`.

    Yields:
        Path in the documentation, and content.
    """
    stem = uri.removesuffix(".ipynb")
    name = stem.rsplit("/", 1)[-1]
    parts: list[str] = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if HIDDEN in cell.get("metadata", {}).get("tags", []):
            continue
        if cell["cell_type"] == "markdown":
            parts.append(BADGE.sub("", source))
            if len(parts) == 1:  # below the title
                download = f'<a href="../{name}.ipynb" download>Download this notebook</a>'
                parts.append(f'<p class="notebook">{download}</p>')
            continue
        parts.append(f"```python\n{source}\n```")
        for at, output in enumerate(cell.get("outputs", [])):
            picture = f"{name}-{number}-{at}"
            text, pictures = shown(output, picture)
            parts.append(text)
            for suffix, data in pictures.items():
                yield f"{stem}-figures/{picture}-{suffix}.png", data
    text = "\n\n".join(part for part in parts if part)
    yield f"{stem}.md", text.replace("](FIGURES/", f"]({name}-figures/")


def shown(output: dict[str, Any], picture: str) -> tuple[str, dict[str, bytes]]:
    """Return the Markdown of an output, and its pictures by mode.

    Args:
        output: Output of a cell.
        picture: Name of its pictures, without the mode.
    """
    if output["output_type"] == "stream":
        return fenced("".join(output["text"])), {}
    data = output.get("data", {})
    text = "".join(data.get("text/plain", ""))
    if PLOTLY in data:
        images = [f"![{label(text)}](FIGURES/{picture}-{mode}.png#only-{mode})" for mode in ("light", "dark")]
        return "\n".join(images), drawn(data[PLOTLY])
    if PNG in data:
        return f"![{label(text)}](FIGURES/{picture}-light.png)", {"light": base64.b64decode("".join(data[PNG]))}
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>|\n\s*\n", "", "".join(data["text/html"]), flags=re.DOTALL)
        return f'<div class="notebook-output">{html}</div>', {}
    return fenced(text), {}


def fenced(text: str) -> str:
    """Return text as a block that is no code."""
    return f'``` {{ .text .notebook-text title="Output" }}\n{text.rstrip()}\n```' if text.strip() else ""


def label(text: str) -> str:
    """Return text that may be the alternative text of an image."""
    return " ".join(text.split()).replace("[", "(").replace("]", ")")


def drawn(figure: dict[str, Any]) -> dict[str, bytes]:
    """Draw a figure in the colours of a light page and of a dark one."""
    from unpact_lens.plots.figure import Figure
    from unpact_lens.plots.static_layout import WIDTH

    made = Figure({"data": figure["data"], "layout": figure["layout"]}, skip_invalid=True)
    return {"light": made.png(width=WIDTH), "dark": made.dark().png(width=WIDTH)}
