"""Audit models on the command line: `unpact audit` and `unpact compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.completion import completer
from unpact_lens.cli.interrupts import command, go_on, interruptible
from unpact_lens.cli.options import AsJson, Chat, DataPath, Html, MaxNewTokens, Png, Prefill, Seed, path
from unpact_lens.cli.outputs import Outputs, check_directory
from unpact_lens.console import form_of, print_line, print_table
from unpact_lens.errors import InputError

if TYPE_CHECKING:
    from unpact_lens.auditing import Audit, AuditOptions

UNMET = 1
"""Exit status where a requirement does not hold, or a verification finds a difference."""

Given = Annotated[
    str | None,
    typer.Option(
        help="Original model: a directory, a hub id (also NAME@REVISION) or a PEFT adapter.",
        autocompletion=completer("model"),
    ),
]


@app.command(
    epilog="Example: `unpact audit runs/npo --before builtin --benchmark builtin --budget quick -o runs/audit`"
)
def audit(
    after: Annotated[
        str | None,
        typer.Argument(
            help="Unlearned model: a directory, a hub id (also NAME@REVISION) or a PEFT adapter.",
            autocompletion=completer("model"),
        ),
    ] = None,
    before: Given = None,
    control: Annotated[
        str | None,
        typer.Option(help="Retrained model, which never saw the facts.", autocompletion=completer("model")),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE", help="Facts: a CSV, JSON, JSONL or Parquet file."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark", "-b", help="Benchmark in place of --facts, e.g. tofu.", autocompletion=completer("benchmark")
        ),
    ] = None,
    data: DataPath = None,
    seen: Annotated[
        str, typer.Option(help="Retain facts of a benchmark that the unlearner saw: split, all or none.")
    ] = "split",
    budget: Annotated[
        str,
        typer.Option(
            help="quick, standard or full: meant for 1, 10 or 60 minutes with 135 million weights, two cores."
        ),
    ] = "standard",
    require: Annotated[
        str | None,
        typer.Option(help='Exit with status 1 unless this holds, e.g. "verdict==erased, D<=0.1, excess<=0.1".'),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Completions endpoint that serves AFTER, e.g. http://127.0.0.1:8000/v1."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in the report. Default: its path.")] = None,
    epsilon: Annotated[float, typer.Option(min=0, max=1, help="Tolerance of the verdict.")] = 0.1,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=path,
            metavar="DIRECTORY",
            help="Directory of the outputs, from which an interrupted audit goes on. Default: audit.",
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="DIRECTORY", help="Check a finished audit: hashes, and a random tenth of the answers."
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of audit.json and exit.")] = False,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Judge whether an unlearned model erased, hid or destroyed facts, whoever unlearned it."""
    if schema:
        from unpact_lens.auditing.record import record_schema

        typer.echo(json.dumps(record_schema(), indent=1))
        return
    if verify is not None:
        _verify(verify, seed, as_json)
        return
    import unpact_lens as ul
    from unpact_lens.auditing.audit import audit as judge
    from unpact_lens.auditing.require import read_requirements, unmet

    if after is None:
        raise InputError("no model is given; write `unpact audit AFTER --before BEFORE --facts facts.csv`")
    out = out or Path("audit")
    conditions = read_requirements(require) if require is not None else ()
    outputs = Outputs(None, html, png)
    check_directory(out)
    options: AuditOptions = {
        "budget": budget, "out": out, "benchmark": benchmark, "seen": seen, "epsilon": epsilon, "seed": seed,
        "chat": chat, "name": name, "command": command(),
    }  # fmt: skip
    if data is not None:
        options["data"] = data
    if prefill is not None:
        options["prefill"] = prefill
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    model = ul.Endpoint(endpoint, after) if endpoint is not None else after
    with interruptible(lambda: f"the finished parts and all answers are kept in {out}; {go_on()}"):
        found = judge(model, before=before, control=control, facts=facts, **options)
    outputs.keep(found)
    _print(found, out, as_json)
    if failed := unmet(found, conditions):
        for line in failed:
            typer.echo(f"required: {line}", err=True)
        raise typer.Exit(UNMET)


def _print(found: Audit, out: Path, as_json: bool) -> None:
    """Print the verdict in plain words and the table, or the record as JSON."""
    if as_json:
        typer.echo((out / "audit.json").read_text(encoding="utf-8"))
        return
    for sentence in found.sentences():
        print_line(sentence)
    print_table(found.summary(), form_of(), title=f"audit of {found.name}, budget {found.budget}")
    for text in found.what_would_change():
        typer.echo(f"open: {text}", err=True)
    for name in ("report.html", "card.md", "audit.json"):
        typer.echo(out / name, err=True)


def _verify(folder: Path, seed: int, as_json: bool) -> None:
    """Check a finished audit and end with status 1 if something differs."""
    from unpact_lens.auditing.verify import verify_audit

    with interruptible("nothing was changed"):
        found = verify_audit(folder, seed=seed, step=lambda text: typer.echo(text, err=True))
    title = f"{folder}: {'agrees' if found.agrees else 'differs'}"
    print_table(found.to_frame(), form_of(as_json=as_json), title=title)
    if not found.agrees:
        raise typer.Exit(UNMET)


@app.command(epilog="Example: `unpact compare runs/audit-a runs/audit-b --html plane.html`")
def compare(
    folders: Annotated[
        list[Path], typer.Argument(parser=path, metavar="DIRECTORY...", help="Directories of finished audits.")
    ],
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Put finished audits into one table and, with --html or --png, on one dilemma plane."""
    from unpact_lens.auditing.compare_audits import compare_audits

    outputs = Outputs(None, html, png)
    found = compare_audits(folders)
    outputs.keep(found)
    frame = found.to_frame() if as_json else found.summary()
    print_table(frame, form_of(as_json=as_json), title=f"{len(found.audits)} audits")
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
