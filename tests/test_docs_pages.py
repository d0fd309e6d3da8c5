"""Run the Python code of the documentation's pages, and compare what is generated with the package."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from scripts import api_summary, notebooks

DOCS = Path(__file__).parent.parent / "docs"
MARK = re.compile(r"<!-- not executed[^>]*: [^>]+-->\s*$")
"""Comment before a block that is not executed. It gives the reason."""

BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(page):
    """Return the blocks of a page that are to be executed."""
    text = page.read_text(encoding="utf-8")
    return [m[2] for m in BLOCK.finditer(text) if not MARK.search(text[: m.start()])]


PAGES = {str(page.relative_to(DOCS)): page for page in sorted(DOCS.rglob("*.md")) if blocks(page)}


NEEDS_HOOKED = {"reference/unlearning.md"}
"""Pages that train single heads, which only a `HookedTransformer` tells apart."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.hooked] if name in NEEDS_HOOKED else []) for name in PAGES]
)
def test_the_python_blocks_of_a_page_run_one_after_the_other(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for block in blocks(PAGES[name]):
        exec(compile(block, name, "exec"), space)


@pytest.mark.hooked  # the page shows the defaults of TransformerLens 3.9
def test_the_summaries_of_the_public_functions_are_those_of_the_package():
    hint = "run python -m scripts.api_summary"
    assert api_summary.PAGE.read_text(encoding="utf-8") == api_summary.page(), hint
    assert api_summary.TEXT.read_text(encoding="utf-8") == api_summary.text(), hint


def test_every_public_name_is_in_both_summaries():
    for text in (api_summary.page(), api_summary.text()):
        assert not [name for name in api_summary.ul.__all__ if f"ul.{name}" not in text]


NOTEBOOKS = {str(file.relative_to(DOCS)): file for file in sorted(DOCS.rglob("*.ipynb"))}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_opens_on_colab_installs_first_and_holds_its_outputs(name):
    cells = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))["cells"]
    assert notebooks.badge(NOTEBOOKS[name]) in "".join(cells[0]["source"])
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert "".join(code[0]["source"]) == notebooks.INSTALL
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in code)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any({"image/svg+xml", "text/html"} & output.get("data", {}).keys() for output in outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_names_no_place_of_the_machine_that_ran_it(name):
    text = NOTEBOOKS[name].read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w/])/(work|home|tmp|root|Users)/", text)


def test_the_table_of_the_dilemma_on_smollm2_is_that_of_the_experiment():
    rows = pd.read_csv(DOCS.parent / "experiments" / "dilemma" / "results-smollm2.csv")
    page = (DOCS / "tutorials" / "dilemma_smollm2.md").read_text(encoding="utf-8")
    for row in rows.to_dict("records"):
        columns = ("F", "D", "D_near", "D_far", "D_trained")
        numbers = [f"{row[c]:.2f} [{row[f'{c}_low']:.2f}, {row[f'{c}_high']:.2f}]" for c in columns]
        excess = f"{row['excess']:.2f} [{row['excess_low']:.2f}, {row['excess_high']:.2f}] {row['excess_probe']}"
        distance = f"{row['distance']:.2f} [{row['distance_low']:.2f}, {row['distance_high']:.2f}]"
        assert f"| {' | '.join([row['method'], *numbers, excess, distance, row['verdict']])} |" in page
