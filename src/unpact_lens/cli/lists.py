"""List what is registered: `unpact methods`."""

from __future__ import annotations

from typing import Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.options import AsJson
from unpact_lens.console import form_of, print_table
from unpact_lens.errors import InputError


@app.command(epilog="Example: `unpact methods --attribution`")
def methods(
    attribution: Annotated[bool, typer.Option("--attribution", help="List attribution methods instead.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="List metrics instead.")] = False,
    probes: Annotated[bool, typer.Option("--probes", help="List recovery probes instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the unlearning methods, each with a description and its source."""
    import unpact_lens as ul

    if attribution + metrics + probes > 1:
        raise InputError("--attribution, --metrics and --probes exclude each other; give one of them")
    listing = ul.attribution_methods if attribution else ul.metrics if metrics else ul.probes if probes else ul.methods
    frame = listing()
    named = frame if frame.index.name is None else frame.reset_index(names="name")
    if not as_json:
        named = named[[c for c in named.columns if c not in ("formula", "defaults", "note")]]
    print_table(named, form_of(as_json=as_json))
