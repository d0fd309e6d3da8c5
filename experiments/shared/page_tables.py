"""Write tables into Markdown pages and read them back.

A block is the text between the lines `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from unpact_lens.errors import InputError
from unpact_lens.results import write_text


def fill_block(path: str | os.PathLike[str], name: str, text: str) -> None:
    """Replace the text of a block in a Markdown file.

    Args:
        path: Markdown file.
        name: Name of the block.
        text: New text, e.g. a table.

    Raises:
        InputError: If the file has no such block.
    """
    content = Path(path).read_text(encoding="utf-8")
    start, end = _find(content, name, path)
    write_text(Path(path), f"{content[:start]}\n{text.strip()}\n{content[end:]}")


def mean_and_range(values: pd.Series) -> str:
    """Return the mean of values over the seeds, with the lowest and highest in brackets, for a table."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def read_block(path: str | os.PathLike[str], name: str) -> str:
    """Return the text of a block, without outer blanks.

    Raises:
        InputError: If the file has no such block.
    """
    content = Path(path).read_text(encoding="utf-8")
    start, end = _find(content, name, path)
    return content[start:end].strip()


def _find(content: str, name: str, path: str | os.PathLike[str]) -> tuple[int, int]:
    found = re.search(rf"<!-- {re.escape(name)} -->(.*?)<!-- /{re.escape(name)} -->", content, flags=re.DOTALL)
    if found is None:
        raise InputError(f"{path} has no block {name!r}; write <!-- {name} --> and <!-- /{name} --> at its place")
    return found.span(1)
