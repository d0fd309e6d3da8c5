"""Run `unpact` and turn every end into one line and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import TextIO

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.interrupts import Interrupted, signals
from unpact_lens.console import one_line
from unpact_lens.errors import InputError

USAGE, INTERNAL, CLOSED = 2, 1, 141
"""Exit status of wrong input or environment, of an internal error, and where stdout was closed by its reader."""

_ClickError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if issubclass(c, Exception) and c.__name__ == "ClickException"
)
"""Error of the option parser. Its module differs between versions of typer."""


def main() -> None:
    """Run `unpact` with the arguments of the process."""
    _prepare()
    with signals():
        status = _status()
    if status == 0:
        status = _flushed()
    if status == CLOSED:
        # Python would try to write the rest at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if status:
        sys.exit(status)


def _prepare() -> None:
    """Make every text printable, keep third-party chatter off the terminal, and show our own warnings as notes."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"unpact_lens(\.|$)")
    setattr(warnings, "showwarning", _note)  # noqa: B010


def _note(message: Warning | str, *_: object) -> None:
    """Show a warning of this library in one line."""
    typer.echo(f"note: {one_line(str(message))}", err=True)


def _status() -> int:
    """Run the command and return its exit status."""
    try:
        _check_arguments(sys.argv[1:])
        result = app(prog_name="unpact", standalone_mode=False)
    except InputError as error:
        return _fail(str(error))
    except _ClickError as error:
        return _usage(error)
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        return stop.status
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was kept", err=True)
        return 130
    except (BrokenPipeError, SystemExit):  # rich and typer turn a closed pipe into SystemExit(1)
        return CLOSED
    except OSError as error:
        return _fail(_described(error))
    except MemoryError:
        return _fail("out of memory; ask for less at a time, e.g. --set batch_size=4 or --set micro_batch=1")
    except Exception as error:
        if os.environ.get("UNPACT_DEBUG"):
            traceback.print_exc()
        if "allocate memory" in str(error) or "out of memory" in str(error):
            return _fail(f"out of memory; ask for less at a time, e.g. --set micro_batch=1 ({type(error).__name__})")
        about = f"internal error: {type(error).__name__}: {error} (UNPACT_DEBUG=1 shows the traceback)"
        typer.secho(one_line(about), err=True, fg="red")
        return INTERNAL
    return result if isinstance(result, int) else 0


def _check_arguments(arguments: list[str]) -> None:
    """Refuse arguments that are no text.

    Raises:
        InputError: If one is not valid Unicode or holds a NUL character.
    """
    for text in arguments:
        if "\0" in text or any(0xD800 <= ord(c) < 0xE000 for c in text):
            raise InputError(f"argument {text!r} is not valid text; give it in the encoding of the terminal (UTF-8)")


def _usage(error: Exception) -> int:
    """Show an error of the option parser in one line, or the help where no command was given."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        if str(error).strip():  # otherwise rich has printed the help already
            typer.echo(str(error))
        return USAGE
    said = getattr(error, "format_message", lambda: str(error))()
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    return _fail(said.rstrip(".") + hint)


def _fail(message: str) -> int:
    typer.secho(f"error: {one_line(message)}", err=True, fg="red")
    return USAGE


def _described(error: OSError) -> str:
    """Describe an error of the operating system in one line."""
    said = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*(name if len(name) < 200 else name[:200] + "…" for name in names), said])


def _flushed() -> int:
    """Write what is left to stdout and return the exit status."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return CLOSED
    except OSError as error:
        return _fail(f"cannot write to stdout: {_described(error)}; what --out, --html or --png named is saved")
    return 0
