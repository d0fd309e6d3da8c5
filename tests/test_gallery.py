"""The gallery shows every kind of figure, and its page is the one that the script writes."""

import re
import xml.etree.ElementTree as ET

import pytest

from scripts import gallery


def test_every_figure_function_has_an_entry():
    shown = {function for entry in gallery.entries() for function in entry.functions}
    assert shown == set(gallery.figure_functions())


def test_no_two_entries_share_their_pictures():
    names = [entry.name for entry in gallery.entries()]
    assert len(names) == len(set(names))


def test_the_code_of_an_entry_is_at_most_four_lines_and_ends_in_the_figure():
    for entry in gallery.entries():
        lines = [line for line in entry.code.split("\n") if line]
        assert len(lines) <= 4, entry.name
        assert lines[-1].endswith(")"), entry.name


def test_the_page_is_what_the_script_writes():
    text = gallery.PAGE.read_text(encoding="utf-8")
    found = re.findall(r"!\[([^]]*)\]\(images/gallery/(\w+)-light.svg#only-light\)", text)
    assert text == gallery.page({name: alt for alt, name in found})


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_entry_has_a_picture_that_says_what_it_shows(mode):
    for entry in gallery.entries():
        file = gallery.PICTURES / f"{entry.name}-{mode}.svg"
        assert file.stat().st_size < 120_000, file.name
        root = ET.parse(file).getroot()
        assert root.find("{http://www.w3.org/2000/svg}title").text
    named = {f"{entry.name}-{m}.svg" for entry in gallery.entries() for m in ("light", "dark")}
    assert {file.name for file in gallery.PICTURES.iterdir()} == named


@pytest.mark.slow
def test_the_code_of_every_entry_draws_its_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [entry.name for entry, _ in gallery.drawn()] == [entry.name for entry in gallery.entries()]
