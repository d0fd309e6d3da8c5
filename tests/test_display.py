"""Every result is one line of text, and one bundle that a notebook shows without script, network or browser."""

from __future__ import annotations

import importlib
import pkgutil
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import unpact_lens
from tests.plots import examples, studies
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.display import LONGEST, Shown, one_line
from unpact_lens.errors import InputError
from unpact_lens.models.lens_version import HAS_HOOKED
from unpact_lens.results import Result, load

SAVED = Path(__file__).parent / "saved_0_1"
KINDS = (
    "attribution", "lens_curves", "patching_map", "weight_changes", "focus", "interactions", "sensitivity",
    "faithfulness", "method_comparison", "head_split", "activation_changes", "history", "decomposition", "model_diff",
)  # fmt: skip


def made() -> dict[str, Result]:
    """Return a result of every kind that can be made without a model, and those that version 0.1 saved."""
    found = {kind: getattr(examples, kind)() for kind in KINDS}
    study = studies.study()
    found |= {"study": study, "cell": study.cells[0], "verdict": study.cells[0].verdict, "scores": study.before}
    found |= {"recovery": study.cells[0].recovery, "without control": studies.study(control=False).cells[0].recovery}
    for folder in SAVED.glob("*/result.json"):
        # Version 0.1 knew HookedTransformers only.
        if HAS_HOOKED or not any(folder.parent.glob("model-*")):
            found[f"saved {folder.parent.name}"] = load(folder.parent)
    return {name: result for name, result in found.items() if isinstance(result, Shown)}


RESULTS = made()


def result_classes() -> list[type]:
    """Return every class of result of the package, after importing all of it."""
    for module in pkgutil.walk_packages(unpact_lens.__path__, "unpact_lens."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)
    found, todo = [], [Result]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__module__.startswith("unpact_lens."):
                found.append(cls)
    return found


def test_every_class_of_result_says_which_numbers_matter():
    silent = [c.__name__ for c in result_classes() if c._brief is Shown._brief and c.__repr__ is Shown.__repr__]
    assert not silent


@pytest.mark.parametrize("name", RESULTS)
def test_the_text_of_a_result_is_one_short_line(name):
    result = RESULTS[name]
    text = repr(result)
    assert len(text) <= LONGEST
    assert text.isprintable()
    assert text.startswith(f"{type(result).__name__}(")
    assert any(c.isdigit() for c in text)


@pytest.mark.parametrize("name", RESULTS)
def test_a_notebook_shows_every_result_without_script_and_network(name):
    bundle = RESULTS[name]._repr_mimebundle_()
    assert bundle["text/plain"] == repr(RESULTS[name])
    picture, page = bundle.get("image/svg+xml"), bundle.get("text/html")
    assert bool(picture) != bool(page)  # a front end that knows both would take the page
    if picture:
        assert len(picture) < 100_000
        assert len(set(re.findall("#[0-9a-f]{6}", picture.lower()))) >= 4
        assert ET.fromstring(picture).findtext("{http://www.w3.org/2000/svg}title")
        for forbidden in ("<script", "href", "@import", "url("):
            assert forbidden not in picture
        assert "application/vnd.plotly.v1+json" in bundle
    else:
        for forbidden in ("<script", "http://", "https://", 'src="//', "@import"):
            assert forbidden not in page


@pytest.mark.parametrize("name", RESULTS)
def test_html_of_a_result_holds_its_picture_and_a_text_for_it(name):
    page = RESULTS[name]._repr_html_()
    assert "<script" not in page
    assert "<b>Os" not in page
    if RESULTS[name]._figure() is not None:
        assert 'alt="' in page
        assert "data:image/png;base64," in page


def test_ipython_gets_one_bundle_and_no_second_picture():
    IPython = pytest.importorskip("IPython")
    shell = IPython.core.interactiveshell.InteractiveShell.instance()
    with IPython.utils.capture.capture_output() as caught:
        shell.display_formatter.format(RESULTS["model_diff"])
    assert [sorted(o.data) for o in caught.outputs] == [
        ["application/vnd.plotly.v1+json", "image/svg+xml", "text/plain"]
    ]


def test_data_are_shown_in_one_line():
    qa = QA("Where\nwas " + "Ann " * 80 + "born?", " In Oslo.", id="x" * 200)
    bench = Benchmark("n" * 300, forget=(qa,), retain=())
    for value in (qa, bench, Corpus(("text",) * 3, name="m" * 200), bench.retain):
        assert len(repr(value)) <= LONGEST
        assert repr(value).isprintable()


def test_a_line_is_cut_with_a_sign():
    assert one_line("X", "a" * 200) == "X(" + "a" * 96 + "…)"


def test_one_string_is_no_corpus():
    with pytest.raises(InputError, match=r"texts is one string, 'Ann paints\.'; give a tuple of documents"):
        Corpus("Ann paints.")
