"""Create the application that every command registers with."""

from __future__ import annotations

from typing import Annotated

import typer
import typer.core

ORDER = (
    "demo", "audit", "compare", "attribute", "diff", "explore", "unlearn", "unlearn-sequence", "tune", "recover",
    "evaluate", "known-facts", "study", "report", "methods", "export", "builtin",
)  # fmt: skip
"""Order of the commands in the help; others follow."""


class _Commands(typer.core.TyperGroup):
    """List the commands in the order of use."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of the commands in the order of the help."""
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_Commands,
    name="unpact",
    help="Show why LLM unlearning works, fails or destroys, token by token and head by head, with controls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(asked: bool | None) -> bool:
    """Print the version and end if it was asked for; else return False."""
    if asked:
        import unpact_lens

        typer.echo(f"unpact-lens {unpact_lens.__version__}")
        raise typer.Exit
    return bool(asked)


@app.callback()
def unpact(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Show why LLM unlearning works, fails or destroys, token by token and head by head, with controls."""
