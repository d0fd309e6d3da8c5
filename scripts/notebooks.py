"""Execute notebooks of the documentation in place: `python -m scripts.notebooks [FILE ...]`.

Each notebook gets the same first two cells, a Colab badge and an install cell, and outputs without times. Without names
all notebooks of `docs/` are executed. `--cells` writes the first two cells only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TAG = "install"
"""Tag of the install cell. The documentation's pages leave it out."""

INSTALL = """\
import importlib.util

if importlib.util.find_spec("unpact_lens") is None:  # e.g. on Colab
    %pip install -q unpact-lens
import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")"""


def repository() -> str:
    """Return the address of the repository that `pyproject.toml` declares.

    Raises:
        ValueError: If it declares none.
    """
    found = re.search(
        r'^Repository = "(https://github\.com/[^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    if found is None:
        raise ValueError("pyproject.toml has no Repository under [project.urls]")
    return found[1]


def badge(file: Path) -> str:
    """Write the badge that opens a notebook on Colab."""
    path = file.resolve().relative_to(ROOT).as_posix()
    address = repository().replace("https://github.com/", "https://colab.research.google.com/github/")
    picture = "../" * (len(file.resolve().relative_to(DOCS).parts) - 1) + "images/colab.svg"
    return f"[![Open in Colab]({picture})]({address}/blob/main/{path})"


def with_first_cells(notebook: nbformat.NotebookNode, file: Path) -> nbformat.NotebookNode:
    """Return a notebook whose first two cells are its title with the badge, and the install cell."""
    cells = [c for c in notebook.cells if TAG not in c.metadata.get("tags", [])]
    title = cells[0]
    lines = [line for line in title.source.split("\n") if not line.startswith("[![Open in Colab]")]
    head, *rest = lines
    title.source = "\n".join([head, "", badge(file), "", *"\n".join(rest).strip().split("\n")])
    install = nbformat.v4.new_code_cell(INSTALL, metadata={"tags": [TAG]}, id="install")
    notebook.cells = [title, install, *cells[1:]]
    return notebook


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Execute a notebook and remove what differs from run to run."""
    from nbclient import NotebookClient

    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        cell["id"] = cell.id if cell.id == "install" else f"cell-{number}"
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


def main(arguments: list[str]) -> None:
    """Write the notebooks named, or all."""
    names = [Path(a) for a in arguments if not a.startswith("--")] or sorted(DOCS.rglob("*.ipynb"))
    for file in names:
        notebook = with_first_cells(nbformat.read(file, as_version=4), file)
        if "--cells" not in arguments:
            notebook = executed(notebook, file.resolve().parent)
        nbformat.validate(notebook)
        nbformat.write(notebook, file)
        print(file, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
