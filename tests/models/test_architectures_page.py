"""The page of architectures is generated: it names every refusal, shows no fault, and its rows are found again."""

import re

import pytest

from scripts import architectures
from tests.models.zoo import ZOO

PAGE = architectures.PAGE.read_text()


def row(name, wrap, table):
    tables = PAGE.split("\n## ")
    text = next(t for t in tables if t.startswith(table))
    line = next(r for r in text.splitlines() if r.startswith(f"| {name} | {wrap} |"))
    return [cell.strip() for cell in line.split("|")[3:-1]]


def test_every_architecture_is_on_the_page_in_both_wraps():
    assert len(ZOO) >= 30
    for name in ZOO:
        for wrap in ("hooked", "bridge"):
            assert len(row(name, wrap, "Self-test")) == len(architectures.CHECKS)
            assert len(row(name, wrap, "Calls")) == len(architectures.CALLS)


def test_no_cell_is_a_fault_and_every_cross_has_its_refusal():
    assert "| ! |" not in PAGE
    refusals = PAGE.split("\n## Refusals")[1]
    for table, columns in (("Self-test", architectures.CHECKS), ("Calls", architectures.CALLS)):
        for name in ZOO:
            for wrap in ("hooked", "bridge"):
                for column, mark in zip(columns, row(name, wrap, table), strict=True):
                    assert mark in (architectures.YES, architectures.NO, architectures.NONE)
                    if mark == architectures.NO:
                        assert f"{name} ({wrap}, {column})" in refusals


def test_refusals_are_one_line_and_say_what_to_do():
    messages = re.findall(r"^- `(.*)`$", PAGE, flags=re.MULTILINE)
    assert len(messages) > 20
    for message in messages:
        assert not re.match(r"\w+Error:", message)
        assert len(message.splitlines()) == 1


QUICK = ("gpt2", "mpt", "opt")
REST = [pytest.param(name, marks=pytest.mark.slow) for name in ZOO if name not in QUICK]


@pytest.mark.hooked
@pytest.mark.parametrize("name", [*QUICK, *REST])
def test_the_rows_are_found_again(name):
    for wrap, cells in architectures.rows(name).items():
        for table, columns in (("Self-test", architectures.CHECKS), ("Calls", architectures.CALLS)):
            found = [architectures.NONE] * len(columns) if isinstance(cells, str) else [cells[c].mark for c in columns]
            assert found == row(name, wrap, table), (name, wrap, table)
