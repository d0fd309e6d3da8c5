"""Check where results go before any work, save them first, and draw their figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from unpact_lens.errors import InputError

if TYPE_CHECKING:
    from unpact_lens.results import Result


@dataclass(frozen=True)
class Outputs:
    """Hold where a command writes, checked before any work.

    Attributes:
        out: Directory of the saved result, or None.
        html: HTML file of the figure, or None.
        png: PNG file of the figure, or None.
        checkpoint: Directory of the run's state, or None. It may be inside `out`.

    Raises:
        InputError: If something cannot be written there.
    """

    out: Path | None = None
    html: Path | None = None
    png: Path | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.out is not None:
            check_result_directory(self.out, self.checkpoint)
        if self.checkpoint is not None:
            check_directory(self.checkpoint)
        for file, suffix in ((self.html, ".html"), (self.png, ".png")):
            if file is not None:
                check_file(file, suffix)

    def keep(self, result: Result) -> None:
        """Save the result, then its figures, and name each on stderr.

        Raises:
            InputError: If the figure cannot be drawn or written. The result is saved by then.
        """
        if self.out is not None:
            from unpact_lens.results import write_result

            typer.echo(write_result(result, self.out), err=True)
        for file in (self.html, self.png):
            if file is not None:
                typer.echo(result.plot().save(file), err=True)


def check_result_directory(path: Path, apart: Path | None = None) -> None:
    """Refuse a directory that cannot hold a result.

    Args:
        path: Directory.
        apart: Directory that may be inside it, e.g. a checkpoint.

    Raises:
        InputError: If it is a file, cannot be written, or holds files but no result.
    """
    from unpact_lens.results import check_result_folder

    check_directory(path)
    check_result_folder(path, apart)


def check_directory(path: Path) -> None:
    """Refuse a path at which no directory can be made or written.

    Raises:
        InputError: If it is a file, a part of it is one, or the user may not write there.
    """
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; give a directory")
        parent = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        if not parent.is_dir():
            raise InputError(f"{parent} is a file, so {path} cannot be made; give another directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{parent} cannot be written; give another directory")
        limit = os.pathconf(parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except (OSError, ValueError) as error:
        raise InputError(f"{_short(path)} is no path of a directory: {getattr(error, 'strerror', error)}") from None
    if longest > limit:
        raise InputError(f"{_short(path)} has a name of {longest} bytes; names have at most {limit}")


def check_file(path: Path, suffix: str = "") -> None:
    """Refuse a path at which no file can be written.

    Args:
        path: File.
        suffix: What the name must end in, e.g. `.png`. If empty, anything.

    Raises:
        InputError: If it is a directory, its directory cannot be made or written, or its name ends in something else.
    """
    try:
        is_directory = path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"{_short(path)} is no path of a file: {getattr(error, 'strerror', error)}") from None
    if is_directory or not path.name:
        raise InputError(f"{path} is a directory; give a file")
    check_directory(path.parent)
    if len(os.fsencode(path.name)) > 240:
        raise InputError(f"{_short(path)} has a name of {len(os.fsencode(path.name))} bytes; give at most 240")
    if suffix and path.suffix.lower() != suffix:
        raise InputError(f"{_short(path)} is no name of a {suffix[1:].upper()} file; end it in {suffix}")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) < 100 else text[:99] + "…"
