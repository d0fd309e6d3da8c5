"""Run the tests with other versions of what the package depends on: `python3 scripts/lanes.py LANE [FOLDER ...]`.

Each lane has an environment of its own, `.venv-<lane>` or `.venv-<lane>-<Python>`; `.venv` is not touched. Folders of
`tests/` are run one after the other, and the last result of each is kept in `requirements/lanes.json`, from which
`docs/versions.md` is written. Standard library only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "requirements" / "lanes.json"
PAGE = ROOT / "docs" / "versions.md"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SHOWN = ("transformer-lens", "transformers", "torch", "tokenizers", "numpy", "pandas")
"""Packages whose versions the page shows."""


@dataclass(frozen=True)
class Lane:
    """Describe one choice of versions.

    Attributes:
        line: What the page says of it.
        options: Options of `uv pip install`.
        torch: Version of torch, as pip reads it; None for the newest.
        every_python: Whether it runs on every interpreter that is found, instead of the one that runs this script.
    """

    line: str
    options: tuple[str, ...]
    torch: str | None = None
    every_python: bool = False


LOCKED_TORCH = (ROOT / "requirements" / "torch.txt").read_text(encoding="utf-8").strip()

LANES = {
    "tl4": Lane("TransformerLens 4, torch as locked, all else newest", ("transformer-lens>=4",), LOCKED_TORCH),
    "lowest": Lane(
        "the lowest versions that `pyproject.toml` allows", ("--resolution", "lowest-direct"), "torch==2.6.0"
    ),
    "highest": Lane("the highest versions that `pyproject.toml` allows", ("--upgrade",), every_python=True),
}


def interpreters() -> dict[str, str | None]:
    """Return the path of each supported interpreter, or None where there is none."""
    return {version: shutil.which(f"python{version}") for version in PYTHONS}


def environment(lane: str, python: str, version: str) -> Path:
    """Create the lane's environment if need be, and install the package with its test tools.

    Args:
        lane: Name of the lane.
        python: Interpreter.
        version: Its version, e.g. `"3.11"`.

    Returns:
        The environment's interpreter.
    """
    folder = ROOT / (f".venv-{lane}-{version}" if LANES[lane].every_python else f".venv-{lane}")
    own = folder / "bin" / "python"
    if not own.exists():
        _run(python, "-m", "venv", folder)
        _run(own, "-m", "pip", "install", "-q", "uv")
    uv = (own, "-m", "uv", "pip", "install", "-q", "--python", own)
    _run(*uv, *torch_options(own, lane), *LANES[lane].options, "-e", f"{ROOT}[dev]")
    return own


def torch_options(python: Path, lane: str) -> tuple[str, ...]:
    """Install a CPU build of torch from where pip looks; return the options that make uv keep it.

    Where pip finds none, uv takes the build of the package index, which for Linux holds CUDA (gigabytes).
    """
    torch = LANES[lane].torch
    if torch is None:
        return ()
    build = f"{torch}+cpu"
    command = (str(python), "-m", "pip", "install", "-q", build)
    missing = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
    return (torch if missing else build,)


def _run(*command: object) -> None:
    """Run a command; end the script if it fails."""
    if subprocess.run([str(c) for c in command], check=False).returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed; see its message above")


def versions_of(python: Path) -> dict[str, str]:
    """Return the installed versions of the packages that the page shows."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {SHOWN}}}))"
    found: dict[str, str] = json.loads(subprocess.check_output([str(python), "-c", code]))
    return found


def test_folder(python: Path, folder: str) -> dict[str, Any]:
    """Run the tests of one folder and count the outcomes.

    Args:
        python: The environment's interpreter.
        folder: Folder, or pattern of files, e.g. `"tests/models"` or `"tests/test_*.py"`.

    Returns:
        Numbers of passed, failed and skipped tests, the reasons of the skips, and the names of failed tests.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        quiet = ("-q", "-n", "2", "-p", "no:cacheprovider", "-m", "not slow and not smollm2", f"--junit-xml={report}")
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        paths = [str(p) for p in sorted(ROOT.glob(folder))]
        subprocess.run([str(python), "-m", "pytest", *quiet, *paths], cwd=ROOT, env=one_thread, check=False)
        if not report.is_file():
            return {"passed": 0, "failed": 0, "skipped": 0, "broken": True, "reasons": {}, "failures": []}
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    reasons: dict[str, int] = {}
    failures = []
    for case in cases:
        skipped = case.find("skipped")
        if skipped is not None:
            reason = re.sub(r"\(.*\)", "", skipped.get("message") or "").strip()
            reasons[reason] = reasons.get(reason, 0) + 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failures.append(f"{case.get('classname')}::{case.get('name')}")
    passed = len(cases) - len(failures) - sum(reasons.values())
    counts = {"passed": passed, "failed": len(failures), "skipped": sum(reasons.values()), "broken": False}
    return {**counts, "reasons": reasons, "failures": failures, "on": datetime.date.today().isoformat()}


def folders() -> list[str]:
    """Return the folders of tests, and the tests beside them as one entry."""
    found = [p for p in sorted((ROOT / "tests").iterdir()) if any(p.glob("test_*.py")) or any(p.glob("*/test_*.py"))]
    return [*(p.relative_to(ROOT).as_posix() for p in found), "tests/test_*.py"]


def read_record() -> dict[str, Any]:
    """Return the last results, by lane and Python."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return record


def page(record: dict[str, Any]) -> str:
    """Write the page of the last results.

    Args:
        record: Results by lane and Python, as `read_record` returns them.
    """
    text = [
        "# Versions",
        "",
        "Python 3.10 to 3.13, TransformerLens 3.9 and 4. `make test` runs on the versions of `requirements/lock.txt`,",
        "with TransformerLens 3.9. `make test-tl4`, `make test-lowest` and `make test-highest` run the same tests on",
        "others, in environments of their own, and write this page. TransformerLens 4 has no `HookedTransformer`, so",
        "every model is a bridge there, and tests that need a `HookedTransformer` are skipped.",
    ]
    for lane, about in LANES.items():
        text += ["", f"## {lane}", "", f"Versions: {about.line}. Run by `make test-{lane}`.", ""]
        runs = record.get(lane, {})
        if not runs:
            text.append("Not run yet.")
        for version, run in runs.items():
            shown = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
            text += [
                f"Python {version}: {shown}.",
                "",
                "| tests | passed | failed | skipped | on |",
                "|---|---|---|---|---|",
            ]
            for folder, found in run["folders"].items():
                failed = "could not be run" if found["broken"] else found["failed"]
                text.append(
                    f"| `{folder}` | {found['passed']} | {failed} | {found['skipped']} | {found.get('on', '')} |"
                )
            reasons: dict[str, int] = {}
            for found in run["folders"].values():
                for reason, count in found["reasons"].items():
                    reasons[reason] = reasons.get(reason, 0) + count
            if reasons:
                text += ["", "Skipped: " + "; ".join(f"{count} {reason}" for reason, count in reasons.items()) + "."]
            failures = [name for found in run["folders"].values() for name in found["failures"]]
            if failures:
                text += ["", "Failed:", "", *(f"- `{name}`" for name in failures)]
            if note := run.get("note"):
                text += ["", note]
        if missing := record.get("missing", {}).get(lane):
            text += ["", f"Interpreters that were not found: {', '.join(missing)}."]
    return "\n".join(text) + "\n"


def write(record: dict[str, Any]) -> None:
    """Write the record and the page."""
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(record), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Run one lane; exit with 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lane", choices=LANES)
    parser.add_argument("folders", nargs="*", help="folders or files of tests; all by default")
    parser.add_argument("--python", type=Path, help="interpreter of an environment that is ready")
    given = parser.parse_args(arguments)
    if unknown := [folder for folder in given.folders if not any(ROOT.glob(folder))]:
        parser.error(f"{unknown[0]} is no folder or file of tests")
    found = interpreters()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = found if LANES[given.lane].every_python else {here: sys.executable}
    failed = False
    for version, python in wanted.items():
        if python is None:
            print(f"{given.lane}: no python{version} found; skipped", flush=True)
            continue
        own = given.python or environment(given.lane, python, version)
        for folder in given.folders or folders():
            print(f"{given.lane}, Python {version}: {folder}", flush=True)
            outcome = test_folder(own, folder)
            record = read_record()
            run = record.setdefault(given.lane, {}).setdefault(version, {"versions": {}, "folders": {}})
            run["versions"] = versions_of(own)
            run["folders"][folder] = outcome
            run["folders"] = dict(sorted(run["folders"].items()))
            record.setdefault("missing", {})[given.lane] = [v for v, path in wanted.items() if path is None]
            write(record)
            failed |= bool(outcome["failed"] or outcome["broken"])
    sys.exit(int(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
