"""Every script of the experiments can be imported and prints its usage."""

import runpy
import sys
from pathlib import Path

import pytest

from experiments.shared.command_line import arguments

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "experiments").rglob("*.py")
    if "runs" not in path.parts and path.read_text(encoding="utf-8").count("__doc__")
)


def test_makefile_runs_only_known_scripts():
    modules = {".".join(path.with_suffix("").parts) for path in SCRIPTS}
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = {word for word in text.split() if word.startswith("experiments.")}
    assert called <= modules
    assert len(SCRIPTS) == 25


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_script_prints_its_usage(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / path), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "python " in shown
    assert path.stem in shown


def test_arguments_are_returned_without_help(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "smollm2", "0"])
    assert arguments("usage") == ["smollm2", "0"]
