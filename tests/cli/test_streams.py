"""A finished run is saved before it is printed: no terminal, pipe or disk can throw it away."""

import os

import pytest

import unpact_lens as ul

HOSTILE = "What is [INST] the [/x] [bold]opposite[/bold] of :smile: hot\x1b[31m? Δ"
ASK = ("attribute", HOSTILE, " The other end is cold.")


def test_a_reader_that_closes_early_loses_nothing(child, tmp_path):
    read, write = os.pipe()
    os.close(read)
    status, err = child(*ASK, "--out", str(tmp_path / "x"), stdout=write)
    os.close(write)
    assert status in (0, 141)
    assert err.strip() == str(tmp_path / "x")
    assert ul.load(tmp_path / "x").prompt == HOSTILE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_named_and_loses_nothing(child, tmp_path):
    full = os.open("/dev/full", os.O_WRONLY)
    status, err = child(*ASK, "--out", str(tmp_path / "x"), stdout=full)
    os.close(full)
    assert status == 2
    assert "No space left on device" in err
    assert ul.load(tmp_path / "x").prompt == HOSTILE


def test_a_closed_stdout_loses_nothing(child, tmp_path):
    status, err = child(*ASK, "--out", str(tmp_path / "x"), stdout=None)
    assert (status, err.strip()) == (0, str(tmp_path / "x"))
    assert ul.load(tmp_path / "x").prompt == HOSTILE


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("form", ["table", "json"])
def test_every_terminal_shows_every_text(child, tmp_path, encoding, form):
    file = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    more = ("--json",) if form == "json" else ()
    status, err = child(*ASK, *more, stdout=file, ENCODING=encoding, COLUMNS="80")
    os.close(file)
    shown = (tmp_path / "out").read_text(encoding=encoding)
    assert (status, err) == (0, "")
    assert "\x1b" not in shown
    if form == "table":
        for part in ("[INST]", "[/x]", "[bold]opposite[/bold]", ":smile:", r"\x1b[31m"):
            assert part in " ".join(shown.split())
        assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_coloured_heat_map_fits_the_terminal(child, tmp_path, width):
    import re

    file = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    prompt = "the opposite of " * 12 + "hot?"
    environment = {"COLUMNS": str(width), "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    status, err = child("diff", "builtin", "builtin", prompt, " cold", stdout=file, **environment)
    os.close(file)
    shown = (tmp_path / "out").read_text()
    assert (status, err) == (0, "")
    assert "\x1b[38;2;" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= width
    assert plain.count("opposite of") == 3 * 12
    assert [line.split()[0] for line in plain.splitlines() if line.startswith(("before", "after", "Δ  "))] == [
        "before", "after", "Δ",
    ]  # fmt: skip
