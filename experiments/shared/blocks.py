"""Tables in Markdown files that a command wrote and a test can read back.

A block stands between `<!-- name -->` and `<!-- /name -->`, each on a line of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from unpact_lens.errors import InputError
from unpact_lens.results import write_text


def fill_block(path: str | os.PathLike[str], name: str, text: str) -> None:
    """Put text into a block of a Markdown file, in place of what stands there.

    Args:
        path: the file.
        name: of the block.
        text: e.g. a table.

    Raises:
        InputError: if the file has no such block.
    """
    content = Path(path).read_text(encoding="utf-8")
    start, end = _find(content, name, path)
    write_text(Path(path), f"{content[:start]}\n{text.strip()}\n{content[end:]}")


def read_block(path: str | os.PathLike[str], name: str) -> str:
    """What stands in a block, without outer blanks.

    Raises:
        InputError: if the file has no such block.
    """
    content = Path(path).read_text(encoding="utf-8")
    start, end = _find(content, name, path)
    return content[start:end].strip()


def _find(content: str, name: str, path: str | os.PathLike[str]) -> tuple[int, int]:
    found = re.search(rf"<!-- {re.escape(name)} -->(.*?)<!-- /{re.escape(name)} -->", content, flags=re.DOTALL)
    if found is None:
        raise InputError(f"{path} has no block {name!r}; write <!-- {name} --> and <!-- /{name} --> where it belongs")
    return found.span(1)
