"""Notebooks become pages with pictures for light and dark; the check of a built site finds what is wrong with it."""

import json

import pytest

from scripts import check_site, site_hooks
from tests.plots import examples

FIGURE = examples.model_diff().plot("heads")
BUNDLE = FIGURE._repr_mimebundle_()


def notebook(*cells):
    return {"cells": [{"cell_type": "markdown", "source": "# Title\n\n[![Open in Colab](a)](b)\n\nText."}, *cells]}


def code(source, *outputs, **metadata):
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": metadata}


def written(*cells):
    """Return the text of a notebook's page, and its pictures."""
    files = dict(site_hooks.page(notebook(*cells), "tutorials/x.ipynb"))
    return files.pop("tutorials/x.md"), files


def test_a_page_has_a_link_to_its_notebook_and_neither_badge_nor_install_cell():
    text, files = written(code("%pip install x", tags=["install"]), code("1 + 1"))
    assert text.startswith("# Title\n\nText.")
    assert 'href="../x.ipynb" download' in text
    assert "Colab" not in text
    assert "%pip" not in text
    assert "```python\n1 + 1\n```" in text
    assert not files


def test_a_figure_has_a_picture_for_each_mode_with_its_text():
    text, files = written(code("plot()", {"output_type": "display_data", "data": BUNDLE}))
    light, dark = (f"x-figures/x-1-0-{mode}.png" for mode in ("light", "dark"))
    assert f"]({light}#only-light)" in text
    assert f"]({dark}#only-dark)" in text
    assert "![Direct contribution of each head" in text
    assert files[f"tutorials/{light}"] == FIGURE.png()
    assert files[f"tutorials/{dark}"] == FIGURE.dark().png()


def test_tables_lose_their_styles_and_texts_are_no_markdown():
    table = {"text/html": "<style scoped>\n\n td {}</style>\n<table>\n\n<tr><td>1</td></tr></table>", "text/plain": "1"}
    printed = {"output_type": "stream", "text": "# no title\n"}
    text, _ = written(code("t", {"output_type": "execute_result", "data": table}), code("p", printed))
    assert "<style" not in text
    assert '<div class="notebook-output">' in text
    assert 'title="Output" }\n# no title\n```' in text


def test_links_to_notebooks_lead_to_their_pages():
    given = "[a](../quickstart.ipynb) [b](x.ipynb#c) [d](https://e.org/f.ipynb)"
    assert site_hooks.on_page_markdown(given) == "[a](../quickstart.md) [b](x.md#c) [d](https://e.org/f.ipynb)"


@pytest.fixture
def site(tmp_path):
    (tmp_path / "search").mkdir()
    docs = [{"title": "t", "text": " ".join(check_site.WORDS)}]
    (tmp_path / "search" / "search_index.json").write_text(json.dumps({"docs": docs}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text('<h1 id="top">Other</h1>')
    (tmp_path / "index.html").write_text(
        '<a href="other/#top">o</a> <a href="https://example.org">e</a> <code>\\frac</code>'
        '<span class="arithmatex">\\(\\frac12\\)</span>'
    )
    return tmp_path


def test_a_good_site_has_no_problems(site):
    assert check_site.problems(site) == []


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="missing/">x</a>', "links to missing/: no such file"),
        ('<a href="other/#gone">x</a>', "links to other/#gone: no such anchor"),
        ('<script src="https://cdn.example.org/a.js"></script>', "from another host"),
        ('<link rel="stylesheet" href="//fonts.example.org/a.css">', "from another host"),
        ('<img src="other/index.html">', "a picture without a text"),
        ("<p>$\\frac{1}{2}$</p>", "shows a formula as text"),
    ],
)
def test_what_is_wrong_with_a_page_is_named(site, html, problem):
    (site / "bad.html").write_text(html)
    found = check_site.problems(site)
    assert len(found) == 1
    assert problem in found[0]


def test_words_that_a_search_misses_are_named(site):
    (site / "search" / "search_index.json").write_text(json.dumps({"docs": [{"title": "png", "text": "lora"}]}))
    assert "a search for 'jupyter' finds nothing" in check_site.problems(site)


def test_doctests_become_blocks_of_code():
    pytest.importorskip("griffe")
    from scripts.docstring_examples import fenced

    given = "Add.\n\nExample:\n    >>> 1 + 1\n    2\n\nMore."
    assert fenced(given) == "Add.\n\nExample:\n    ```pycon\n    >>> 1 + 1\n    2\n    ```\n\nMore."
    assert fenced(">>> 1") == "```pycon\n>>> 1\n```"
