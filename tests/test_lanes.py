"""The page of versions is written from the last results of the lanes."""

import re
import sys
from pathlib import Path

from scripts import lanes

ROOT = Path(__file__).parents[1]


def test_the_page_is_what_the_record_gives():
    assert lanes.PAGE.read_text(encoding="utf-8") == lanes.page(lanes.read_record())


def test_every_lane_is_a_target_and_part_of_test_all():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needs = re.search(r"^test-all: (.*?)##", makefile, re.MULTILINE)[1].split()
    for lane in lanes.LANES:
        assert f"test-{lane}" in needs
        assert re.search(rf"^test-{lane}:.*\n\t.*scripts/lanes.py {lane}$", makefile, re.MULTILINE)


def test_the_lowest_lane_has_the_lowest_torch_that_is_allowed():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert lanes.LANES["lowest"].torch == f"torch=={re.search('torch>=([0-9.]+)', project)[1]}.0"


def test_a_result_is_counted_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    (tmp_path / "test_three.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 0\n"
        "def test_none(): pytest.skip('needs HookedTransformer (gated_mlp)')\n"
    )
    found = lanes.test_folder(Path(sys.executable), "test_*.py")
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert found["reasons"] == {"needs HookedTransformer": 1}
    run = {"versions": {"torch": "2.6"}, "folders": {"tests/three": found}}
    text = lanes.page({"tl4": {"3.11": run}, "missing": {"highest": ["3.10"]}})
    assert "| `tests/three` | 1 | 1 | 1 |" in text
    assert "Skipped: 1 needs HookedTransformer." in text
    assert "test_bad" in text
    assert "Interpreters that were not found: 3.10." in text


def test_interpreters_are_those_that_the_package_supports():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={lanes.PYTHONS[0]}"' in project
    assert set(lanes.interpreters()) == set(lanes.PYTHONS)


def test_the_page_names_no_folder_of_the_machine_that_ran_the_lanes():
    assert re.findall(r"(?<![\w.~])/(?:tmp|root|home|work|opt|usr)\b\S*", lanes.PAGE.read_text(encoding="utf-8")) == []
