"""The wheel installs into a fresh environment and runs the README; the package index can show the description."""

import re
import zipfile
from pathlib import Path

import pytest

from scripts import check_install

ROOT = Path(__file__).parent.parent


def test_all_holds_every_extra_that_is_for_users():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text[text.index("[project.optional-dependencies]") : text.index("[project.scripts]")]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    named = set(re.search(r'^all = \[\s*"unpact-lens\[([\w,]+)\]"', section, re.MULTILINE)[1].split(","))
    # gemma3 has terms of use of its own, and vllm asks for one torch, with CUDA
    assert named == extras - {"all", "dev", "docs", "gemma3", "endpoint", "vllm"}


@pytest.mark.slow
def test_the_description_has_full_addresses_only(tmp_path):
    wheel = check_install.built(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith("METADATA"))
        text = archive.read(name).decode("utf-8")
    assert "Provides-Extra: all" in text
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert not [t for t in targets if not t.startswith("http")]


@pytest.mark.slow
def test_the_wheel_runs_the_readme_in_a_fresh_environment(tmp_path):
    check_install.check(tmp_path)
