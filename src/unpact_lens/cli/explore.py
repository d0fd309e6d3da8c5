"""Explore two models in a local page: `unpact explore`."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.completion import completer
from unpact_lens.cli.interrupts import interruptible
from unpact_lens.cli.options import Chat, MaxNewTokens, Prefill, Unlearned, asking, load, load_benchmark, load_if
from unpact_lens.errors import InputError, nearest

if TYPE_CHECKING:
    from unpact_lens.data.benchmark import Benchmark
    from unpact_lens.models.asking import AskingOptions


@app.command(epilog="Example: `unpact explore builtin runs/npo --control builtin-retrain`")
def explore(
    before: Annotated[str, typer.Argument(help="Original model, e.g. builtin.", autocompletion=completer("model"))],
    after: Unlearned,
    control: Annotated[
        str | None,
        typer.Option(help="Retrained model, shown beside the other two.", autocompletion=completer("model")),
    ] = None,
    facts: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Facts to pick from: a benchmark, or a CSV, JSON, JSONL or Parquet file. "
            "Default: those of the embedded model, if BEFORE is builtin; else prompts are typed.",
            autocompletion=completer("benchmark"),
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. Default: a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the default browser.")
    ] = True,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Open a local page that shows prompt tokens, heads, patches, emphasis and prefill of two models.

    Only this machine reaches the page, by the token in its address. Nothing is fetched from elsewhere.
    """
    from unpact_lens.explorer.server import ExplorerServer
    from unpact_lens.explorer.session import ExplorerSession

    options = asking(chat, prefill, max_new_tokens)
    with interruptible("the explorer is closed, nothing was kept"):
        bench = _facts(facts or ("builtin" if before == "builtin" else None), options)
        sources = {"before": before, "after": after, **({"control": control} if control else {})}
        models = load(before), load(after), load_if(control)
        session = ExplorerSession(*models, bench, sources=sources, **options)
        with ExplorerServer(session, port) as server:
            typer.echo(server.url)
            typer.echo("Open this address in a browser of this machine. Ctrl-C ends the explorer.", err=True)
            if browser:  # a browser in the terminal would block
                threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
            server.serve_forever(poll_interval=0.1)


def _facts(given: str | None, options: AskingOptions) -> Benchmark | None:
    """Return the facts to pick from: a registered benchmark, or those of a file.

    Raises:
        InputError: If it is neither, or the file cannot be read.
    """
    from unpact_lens.data.benchmark import BENCHMARKS
    from unpact_lens.data.custom import from_pairs

    if given is None:
        return None
    if given in BENCHMARKS:
        return load_benchmark(given, None, options)
    if Path(given).is_file():
        return from_pairs(given, chat=options.get("chat", False))
    raise InputError(f"--facts {given!r} is no file and no benchmark; {nearest(given, BENCHMARKS)}")
