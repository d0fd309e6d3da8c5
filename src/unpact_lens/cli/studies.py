"""Run studies on the command line: `unpact demo`, `unpact study` and `unpact report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.completion import completer
from unpact_lens.cli.interrupts import go_on, interruptible
from unpact_lens.cli.options import AsJson, Html, Out, Png
from unpact_lens.cli.outputs import Outputs, check_directory, check_file
from unpact_lens.console import form_of, print_table
from unpact_lens.errors import InputError


@app.command(epilog="Example: `unpact demo --model smollm2`")
def demo(
    model: Annotated[str, typer.Option("--model", "-m", help="builtin (3 min) or smollm2 (25 min).")] = "builtin",
    out: Out = None,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Run the demo: unlearn with six methods, show the changes, try to recover the facts, and give verdicts."""
    names = {"builtin": "demo", "smollm2": "demo-smollm2"}
    if model not in names:
        raise InputError(f"the demo runs on 'builtin' or 'smollm2', not {model!r}; for other models see `unpact study`")
    _study(names[model], out, Outputs(None, html, png), as_json)


@app.command(epilog="Example: `unpact study my-study.yaml --out runs/my-study`")
def study(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file or name of a shipped configuration, e.g. demo.", autocompletion=completer("study")
        ),
    ],
    out: Out = None,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Run every method and seed of a study. Finished runs are kept and not repeated."""
    _study(config, out, Outputs(None, html, png), as_json)


@app.command(epilog="Example: `unpact report runs/demo`")
def report(
    folder: Annotated[Path, typer.Argument(help="Directory of a finished study, e.g. runs/demo.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file to write. Default: report.html in the directory.")
    ] = None,
) -> None:
    """Write the HTML report of a finished study again."""
    import unpact_lens as ul
    from unpact_lens.study import Study

    file = out or folder / "report.html"
    if out is not None:
        check_file(file)
    result = ul.load(folder)
    if not isinstance(result, Study):
        raise InputError(f"{folder} holds a {type(result).__name__}, not a study; give what `unpact study --out` wrote")
    with interruptible(f"{file} is as it was"):
        typer.echo(ul.write_report(result, file))


def _study(config: str, out: Path | None, outputs: Outputs, as_json: bool) -> None:
    """Run a study in its directory, `runs/<name>` by default, and print its table."""
    import unpact_lens as ul

    folder = out or Path("runs") / Path(config).stem
    loaded = ul.load_config(config)
    check_directory(folder)

    def kept() -> str:
        total = len(loaded.methods) * len(loaded.seeds)
        done = len(list(folder.glob("cells/*/result.json")))
        return f"the finished parts ({done} of {total} runs) are kept in {folder}; {go_on()}"

    with interruptible(kept):
        result = ul.run_study(loaded, folder)
    outputs.keep(result)
    print_table(result.to_frame() if as_json else result.summary(), form_of(as_json=as_json), title=result.headline())
    typer.echo(folder / "report.html", err=as_json)
