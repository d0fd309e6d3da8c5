"""Run studies on the command line: `unpact demo`, `unpact study` and `unpact report`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import typer
import typer.core

from unpact_lens.cli.app import app
from unpact_lens.cli.completion import completer
from unpact_lens.cli.interrupts import go_on, interruptible
from unpact_lens.cli.options import AsJson, Html, Out, Png, path
from unpact_lens.cli.outputs import Outputs, check_directory, check_file
from unpact_lens.console import form_of, print_table
from unpact_lens.errors import InputError

FAILED = 3
"""Exit status of a study of which some cells failed; the others are saved."""


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


class _Studies(typer.core.TyperGroup):
    """Let `unpact study CONFIG` mean `unpact study run CONFIG`."""

    def parse_args(self, ctx: object, args: list[str]) -> list[str]:
        """Put `run` before the arguments unless they begin with a verb or ask for help."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(cast(typer.Context, ctx), args)


studies = typer.Typer(
    cls=_Studies,
    no_args_is_help=True,
    help="Run every method and seed of a study, look at it, or clean up. `unpact study CONFIG` runs it.",
)
app.add_typer(
    studies,
    name="study",
    epilog="Example: `unpact study my-study.yaml --out runs/my-study`. Options: `unpact study run --help`",
)

StudyName = Annotated[
    str,
    typer.Argument(help="YAML file or name of a shipped configuration, e.g. demo.", autocompletion=completer("study")),
]
StudyFolder = Annotated[
    Path, typer.Argument(parser=path, metavar="DIRECTORY", help="Directory of a study, e.g. runs/demo.")
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", min=1, max=1024, help="Number of processes, each with its share of the cores.")
]
On = Annotated[str | None, typer.Option("--on", help="Where cells run: ray, for a Ray cluster. Default: here.")]


@studies.command(epilog="Example: `unpact study run my-study.yaml --out runs/my-study --jobs 4`")
def run(
    config: StudyName,
    out: Out = None,
    jobs: Jobs = 1,
    on: On = None,
    share: Annotated[
        str, typer.Option("--share", help="i/n: run every n-th cell from cell i on, as job i of a SLURM array.")
    ] = "0/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells with estimated time and memory, and run nothing.")
    ] = False,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Run every method and seed of a study. Finished cells are kept and not repeated; a cell that fails is recorded."""
    if dry_run:
        import unpact_lens as ul
        from unpact_lens.study import planned

        frame = planned(ul.load_config(config), out or Path("runs") / Path(config).stem)
        total = frame.loc[frame["state"] != "finished", "seconds"]
        known = "unknown" if total.isna().any() else f"{total.sum() / 3600:.2f} hours one after the other"
        print_table(frame, form_of(as_json=as_json), title=f"{len(total)} of {len(frame)} cells to run: {known}")
        return
    _study(config, out, Outputs(None, html, png), as_json, Way(jobs, on, _share(share)))


@studies.command(epilog="Example: `unpact study status runs/my-study`")
def status(folder: StudyFolder, as_json: AsJson = False) -> None:
    """List the cells of a study: finished, out of date, failed, running, interrupted or waiting."""
    from unpact_lens.study import study_status

    frame = study_status(folder)
    counts = ", ".join(f"{n} {state}" for state, n in frame["state"].value_counts().items())
    print_table(frame, form_of(as_json=as_json), title=f"{folder}: {counts}")


@studies.command(epilog="Example: `unpact study retry my-study.yaml --out runs/my-study`")
def retry(config: StudyName, out: Out = None, jobs: Jobs = 1, on: On = None, as_json: AsJson = False) -> None:
    """Run a study with the cells that failed before. `unpact study run` leaves those alone."""
    _study(config, out, Outputs(None, None, None), as_json, Way(jobs, on, retry=True))


@studies.command(epilog="Example: `unpact study clean runs/my-study`")
def clean(
    folder: StudyFolder,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove finished cells, models, tables and the report as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints, records of failures and cells that are out of date. Files of yours are never removed."""
    from unpact_lens.study import clean_study

    removed = clean_study(folder, everything=everything)
    title = f"{folder}: {len(removed)} removed, {removed['bytes'].sum() / 1e6:.1f} MB"
    print_table(removed, form_of(as_json=as_json), title=title)


@studies.command(epilog="Example: `unpact study schema > study.schema.json`")
def schema() -> None:
    """Print the JSON schema of a study's configuration, for editors that check and complete YAML."""
    from unpact_lens.study import config_schema

    typer.echo(json.dumps(config_schema(), indent=1))


@dataclass(frozen=True)
class Way:
    """Hold how the cells of a study are run; see `run_study`."""

    jobs: int = 1
    on: str | None = None
    share: tuple[int, int] = (0, 1)
    retry: bool = False


def _share(text: str) -> tuple[int, int]:
    """Read `i/n`."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"--share {text!r} is not i/n, e.g. 0/4 to 3/4 for four jobs")
    return int(parts[0]), int(parts[1])


@app.command(epilog="Example: `unpact report runs/demo`")
def report(
    folder: Annotated[
        Path, typer.Argument(parser=path, metavar="DIRECTORY", help="Directory of a finished study, e.g. runs/demo.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=path,
            metavar="FILE",
            help="HTML file to write. Default: report.html in the directory.",
        ),
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


def _study(config: str, out: Path | None, outputs: Outputs, as_json: bool, way: Way | None = None) -> None:
    """Run a study in its directory, `runs/<name>` by default, and print its table."""
    import unpact_lens as ul

    folder = out or Path("runs") / Path(config).stem
    loaded = ul.load_config(config)
    check_directory(folder)
    way = way or Way()

    def kept() -> str:
        total = len(loaded.methods) * len(loaded.seeds)
        done = len(list(folder.glob("cells/*/result.json")))
        return f"the finished parts ({done} of {total} runs) are kept in {folder}; {go_on()}"

    with interruptible(kept):
        result = ul.run_study(loaded, folder, jobs=way.jobs, on=way.on, share=way.share, retry=way.retry)
    outputs.keep(result)
    print_table(result.to_frame() if as_json else result.summary(), form_of(as_json=as_json), title=result.headline())
    typer.echo(folder / "report.html", err=as_json)
    for cell in result.failed:
        typer.echo(f"failed: {cell['method']} with seed {cell['seed']}: {cell['error']}", err=True)
    if result.failed:
        typer.echo("run the failed cells again by `unpact study retry`", err=True)
        raise typer.Exit(FAILED)
