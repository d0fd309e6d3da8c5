"""Check that the report is one self-contained page, safe for any text, with the numbers of the study."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.plots import examples, studies
from unpact_lens.errors import InputError
from unpact_lens.report import sentences, write_report
from unpact_lens.report.tables import COLUMNS
from unpact_lens.report.write_report import in_script

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Parse the page as a browser does: tags, nesting, text outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.unbalanced, self.scripts = [], [], [], {}
        self.text = self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attrs = self.tags[-1][1]
            self.scripts[attrs.get("id", len(self.scripts))] = data
        elif self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def all(self, tag):
        return [attrs for t, attrs in self.tags if t == tag]


@pytest.fixture(scope="module")
def study():
    return studies.study()


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    return write_report(study, tmp_path_factory.mktemp("report") / "sub" / "report.html")


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


def test_the_report_is_one_well_formed_file_below_eight_megabytes(written, page):
    assert page.unbalanced == []
    assert page.open == []
    assert written.stat().st_size < 8e6
    assert list(written.parent.iterdir()) == [written]


def test_the_page_loads_no_other_resource(page):
    for _, attrs in page.tags:
        assert "src" not in attrs
        assert attrs.get("href", "#").startswith("#")
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert len(page.style) > 1000
    assert not any(word in page.style for word in ("url(", "@import", "http"))


def test_plotly_is_embedded_once_and_figures_are_json(page):
    assert sum("plotly.js v" in s for s in page.scripts.values()) == 1
    kinds = [a.get("type") for a in page.all("script")]
    assert kinds.count(None) == 2
    assert set(kinds) == {None, "application/json"}


def test_every_figure_element_has_its_data(page):
    places = [a["data-figure"] for _, a in page.tags if "data-figure" in a]
    assert len(places) == len(set(places)) > 20
    for place in places:
        figure = json.loads(page.scripts[place])
        assert figure["data"]
        assert "title" not in figure["layout"]  # the page shows it as text, which wraps
    described = [a for _, a in page.tags if "aria-describedby" in a]
    assert len(described) == len(places)
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in described)
    assert {a["aria-describedby"] for a in described} <= {a.get("id") for _, a in page.tags}


def test_terms_are_explained_on_hover_and_focus(page):
    terms = [a for a in page.all("abbr") if a.get("class") == "term"]
    assert all(a["title"].endswith(".") and a["tabindex"] == "0" for a in terms)
    for first in ("Forgetting", "Destruction of unseen", "Recovery: of the common set", "Largest excess"):
        assert any(a["title"].startswith(first) for a in terms)


def test_components_are_averaged_over_the_facts_with_their_baseline(study, tmp_path):
    cell = studies.cell("ga")
    floors = tuple(replace(d, floor=d) for d in cell.diffs)
    for diffs, baseline in ((cell.diffs, False), (floors, True)):
        with_floor = replace(study, cells=(replace(cell, diffs=diffs),))
        text = Page(write_report(with_floor, tmp_path / "a.html").read_text(encoding="utf-8")).text
        assert "Mean over 2 facts, ga" in text
        assert ("This study has no noise baseline" in text) != baseline


def test_a_dark_page_changes_the_colours_of_figures(page):
    pairs = json.loads(page.scripts["dark-colours"])
    assert json.dumps("#FFFFFF") in [light for light, _ in pairs]
    figures = [page.scripts[a["data-figure"]] for _, a in page.tags if "data-figure" in a]
    assert any(pairs[0][0] in text for text in figures)  # the diverging scale, as the script finds it


def test_markup_in_prompts_is_escaped(page):
    assert 'Where was "<script>alert(1)</script> & Ann</div> born?' in page.text
    assert "made-up <study>" in page.text
    assert 'A note with <b>markup</b> & "quotes".' in page.text
    assert not any(s.startswith("alert") for s in page.scripts.values())
    assert page.all("i") == []


def test_the_headline_is_computed_from_the_verdicts(page, study):
    assert sentences.headline(study) in page.text
    assert "unpact study made-up <study>.yaml" in page.text


def test_one_panel_of_each_kind_is_visible_initially(page, study):
    panels = [a for _, a in page.tags if a.get("class") == "panel"]
    shown = [a for a in panels if "hidden" not in a]
    assert {a["data-cell"] for a in shown} == {"0"}
    assert {a["data-cell"] for a in panels} == {str(i) for i in range(len(study.cells))}
    assert [a["data-map"] for a in shown if "data-map" in a] == ["0"]
    assert [a["data-diff"] for a in shown if "data-diff" in a] == ["0"]


def test_each_section_has_a_link(page):
    sections = [a["id"] for a in page.all("section")]
    assert [a["href"] for a in page.all("a")] == [f"#{s}" for s in sections]


def test_the_page_shows_the_numbers_of_the_study(page, study):
    for value in study.to_frame()["D"]:
        assert sentences.number(value) in page.text


def test_without_a_retrained_model_the_page_names_its_replacement(tmp_path):
    text = Page(write_report(studies.study(control=False), tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "There is no retrained model for this study. It is replaced by: wrong subject and never-known facts." in text
    for definition in ("There is no retrained model", *(column.about for column in COLUMNS)):
        text = text.replace(definition, "")
    assert "retrained model" not in text


def test_a_study_without_diffs_or_retain_maps_has_a_report(tmp_path):
    bare = studies.cell("ga", diffs=())
    text = write_report(studies.study(cells=(bare,)), tmp_path / "r.html").read_text(encoding="utf-8")
    assert [a["id"] for a in Page(text).all("section")].count("components") == 0


def test_retain_maps_follow_the_forget_maps(tmp_path):
    both = studies.cell("ga", focus_retain=examples.focus(2, seed=50))
    page = Page(write_report(studies.study(cells=(both,)), tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.text.count("forget: Where was") == 6
    assert page.text.count("retain: Where was") == 2


def test_the_same_study_gives_the_same_bytes(written, study, tmp_path):
    assert write_report(study, tmp_path / "again.html").read_bytes() == written.read_bytes()


def test_bad_input_to_write_report_is_named(study, tmp_path):
    with pytest.raises(InputError, match="is a directory; give the HTML file"):
        write_report(study, tmp_path)
    with pytest.raises(InputError, match="the study has no cells"):
        write_report(studies.study(cells=()), tmp_path / "r.html")


def test_json_cannot_end_its_script_element():
    text = in_script(json.dumps({"a": "</script><!-- & \u2028"}, ensure_ascii=False))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


def test_what_went_wrong_in_training_is_said_beside_the_verdicts(tmp_path):
    said = "F = 0.02: almost nothing is forgotten; <b>raise</b> lr"
    cells = (studies.cell("ga"), studies.cell("npo", warnings=(said,)))
    page = Page(write_report(studies.study(cells=cells), tmp_path / "x.html").read_text())
    before, _, after = page.text.partition("Definitions of columns and verdicts")
    assert f"npo: {said}." in before
    assert f"Warning: {said}." in after
    assert (before + after).count("almost nothing is forgotten") == 2
