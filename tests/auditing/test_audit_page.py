"""The page on auditing has code that runs and options that exist."""

import re
from pathlib import Path

import typer

from unpact_lens import cli

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "audit.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "audit.md", "exec"), names)
    assert names["a"].budget == "quick"
    assert len(names["table"].bench.unseen) == 1


def test_the_options_of_the_page_exist():
    commands = typer.main.get_command(cli.app).commands
    known = {opt for name in ("audit", "compare") for p in commands[name].params for opt in p.opts}
    shown = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", PAGE))
    assert shown <= known
