"""Create the application that every command registers with."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="unpact",
    help="Show why LLM unlearning works, fails or destroys, token by token and head by head, with controls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        import unpact_lens

        typer.echo(f"unpact-lens {unpact_lens.__version__}")
        raise typer.Exit


@app.callback()
def unpact(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Show why LLM unlearning works, fails or destroys, token by token and head by head, with controls."""
