"""A notebook shows progress below the cell and keeps nothing of it; elsewhere without a terminal nothing is shown."""

import IPython.display
import pytest

from unpact_lens import progress


class Handle:
    def __init__(self):
        self.pages = []

    def update(self, page):
        self.pages.append(page.data)


@pytest.fixture
def notebook(monkeypatch):
    handle, now = Handle(), [0.0]

    def tick():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    monkeypatch.setattr(progress.time, "monotonic", tick)
    return handle


def test_a_notebook_shows_how_much_is_done_and_keeps_nothing(notebook):
    with progress.progress_bar("a <b>", total=4) as bar:
        bar.step(3)
        bar.say("c")
        bar.at(1, 2)
    shown = [page.split("</label>")[0] for page in notebook.pages]
    assert 'a &lt;b&gt; <progress value="3" max="4"></progress> 3/4' in shown[1]
    assert "a &lt;b&gt;: c" in shown[2]
    assert 'value="1" max="2"' in shown[3]
    assert notebook.pages[-1] == ""


def test_a_bar_is_removed_when_the_call_fails(notebook):
    with pytest.raises(ValueError, match="stop"), progress.progress_bar("a"):
        raise ValueError("stop")
    assert notebook.pages[-1] == ""


def test_nothing_is_shown_without_terminal_and_notebook(capsys):
    with progress.progress_bar("a", total=2) as bar:
        bar.step()
        assert not bar.shown
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_if_not_asked(notebook):
    with progress.progress_bar("a", shown=False) as bar:
        assert not bar.shown
    assert notebook.pages == []
