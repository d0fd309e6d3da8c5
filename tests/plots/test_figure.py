"""Every figure holds real models, is legible on a narrow page, describes itself, and saves itself without a browser."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from tests.plots import examples, studies
from tests.plots.examples import noise
from unpact_lens.comparison import (
    ActivationChanges,
    AttentionPatterns,
    DiffSummary,
    HeadSplit,
    ModelDiff,
    PatchingMap,
)  # fmt: skip
from unpact_lens.decomposition import PathEffects
from unpact_lens.decomposition.result import Decomposition
from unpact_lens.errors import InputError
from unpact_lens.plots import theme
from unpact_lens.plots.drawing import Label, Line, Polygon
from unpact_lens.plots.figure import LINE, TALLEST, TITLE_LINE, TITLE_PAD, WIDE, Figure, finish, set_theme
from unpact_lens.plots.static import draw

LAYERS, HEADS = 32, 32
TOKENS = tuple(f" word{i}" for i in range(200))
ANSWER = tuple(f" answer{i}" for i in range(9))
ROWS, COLUMNS = tuple(f"L{i}" for i in range(LAYERS)), tuple(f"H{i}" for i in range(HEADS))


def decomposition(by: str, seed: int = 0) -> Decomposition:
    parts = ("embed", *(row + head for row in ROWS for head in COLUMNS), *(f"{row}.mlp" for row in ROWS))
    axes = {"component": (parts,), "head": (ROWS, COLUMNS), "source": (ROWS, COLUMNS, TOKENS)}[by]
    values, rest = noise(*map(len, axes), len(ANSWER), seed=seed), noise(2, len(ANSWER), seed=seed + 1)
    return Decomposition(
        values=values, labels=(*axes, ANSWER), remainder=rest, remainder_labels=("ln_final.b", "unembed.b_U"),
        total=values.flatten(0, -2).sum(0) + rest.sum(0), by=by, tokens=TOKENS, answer_tokens=ANSWER,
        prompt="".join(TOKENS), answer="".join(ANSWER),
    )  # fmt: skip


def model_diff() -> ModelDiff:
    before, after = decomposition("component"), decomposition("component", 5)
    looks = [examples.attribution(seed, tokens=TOKENS, answer=ANSWER) for seed in (0, 1)]
    zero = torch.zeros(len(ANSWER))
    made = ModelDiff(
        prompt=before.prompt, answer=before.answer, tokens=TOKENS, answer_tokens=ANSWER, log_prob_before=before.total,
        log_prob_after=after.total, logit_before=before.total, logit_after=after.total, logsumexp_before=zero,
        logsumexp_after=zero, components_before=before, components_after=after, heads_before=decomposition("head"),
        heads_after=decomposition("head", 3), contributions_before=looks[0], contributions_after=looks[1],
        sources_before=decomposition("source"), sources_after=decomposition("source", 7),
    )  # fmt: skip
    return replace(made, floor=made)


def summary() -> DiffSummary:
    def rows(*shape: int) -> torch.Tensor:
        mean = noise(*shape)
        return torch.stack([mean, mean - 0.1, mean + 0.1, torch.full_like(mean, 96)], -1)

    parts = decomposition("component").labels[0]
    made = DiffSummary(
        scalars={k: rows(1)[0] for k in ("log_prob", "logit", "logsumexp")}, components=rows(len(parts)),
        heads=rows(LAYERS, HEADS), items=noise(96, 3), labels=(parts, ROWS, COLUMNS), ids=tuple(map(str, range(96))),
        adjusted_p={"heads": noise(LAYERS, HEADS).abs() / 3},
    )  # fmt: skip
    return replace(made, floor=made)


def large() -> dict[str, Callable[[], Figure]]:
    """Return a function that draws each kind of figure at the shape of a real model."""
    n = len(TOKENS)
    places = tuple(f"{token}_{i}" for i, token in enumerate(TOKENS))
    hooks = tuple(f"blocks.{i}.hook_{name}" for i in range(LAYERS) for name in ("resid_pre", "attn_out", "mlp_out"))
    labels = (ROWS, COLUMNS, ANSWER)
    patching = PatchingMap(
        log_prob=noise(LAYERS, n) - 4, labels=(ROWS, places), baseline=-4.0, donor=-1.0, what="resid_pre",
        direction="before_into_after", prompt="p", answer="a", tokens=TOKENS,
    )  # fmt: skip
    weights = noise(4, n, n).softmax(-1)
    attention = AttentionPatterns(
        before=weights, after=weights.flip(0), heads=((0, 1), (3, 2), (9, 9), (14, 3)), delta=noise(4), tokens=TOKENS,
        prompt="p", answer="a",
    )  # fmt: skip
    activations = ActivationChanges(
        hooks=hooks, tokens=TOKENS, norm_before=noise(len(hooks), n).abs(), norm_delta=noise(len(hooks), n).abs(),
        cosine=noise(len(hooks), n).tanh(), cka=noise(len(hooks)), kl=noise(n).abs(), prompt="p", answer="a",
    )  # fmt: skip
    split = HeadSplit(
        values=noise(4, LAYERS, HEADS, 9), players=("pattern", "input", "ov", "readout"), labels=labels, prompt="p",
        before=noise(LAYERS, HEADS, 9), after=noise(LAYERS, HEADS, 9), pattern_parts=None, answer="a",
    )  # fmt: skip
    effects = PathEffects(
        direct=noise(256, n, 9), total=noise(256, n, 9), heads=tuple((i // 8, i % 8) for i in range(256)),
        frozen=("norms",), tokens=TOKENS, answer_tokens=ANSWER, prompt="p", answer="a",
    )  # fmt: skip
    drawn: dict[str, Callable[[], Figure]] = {
        "attribution": lambda: examples.attribution(tokens=TOKENS, answer=ANSWER).plot(),
        "components": lambda: decomposition("component").plot(), "heads": lambda: decomposition("head").plot("heads"),
        "sources": lambda: decomposition("source").plot("sources"),
        "tokens": lambda: decomposition("source").plot("tokens"),
        **{f"diff {w}": lambda w=w: model_diff().plot(w) for w in ("components", "heads", "sources", "tokens")},
        "summary": lambda: summary().plot(), "summary heads": lambda: summary().plot("heads"),
        "patching": patching.plot,
        "one column": replace(patching, log_prob=noise(LAYERS, 1), labels=(ROWS, ("mlp",))).plot,
        "attention": attention.plot, "activations": activations.plot, "split": split.plot, "effects": effects.plot,
    }  # fmt: skip
    return drawn


DRAWN = large()


@pytest.fixture(scope="module", params=DRAWN)
def figure(request) -> Figure:
    return DRAWN[request.param]()


def maps_of(fig: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in fig.data if trace.type == "heatmap"]


def test_a_figure_of_a_real_model_is_small_and_fits_a_page(figure):
    assert figure.layout.height <= TALLEST
    assert sum(len(str(form)) for form in figure._repr_mimebundle_().values()) < 120_000
    for trace in figure.data:
        if trace.type == "bar":
            assert len(trace.x if trace.orientation != "h" else trace.y) <= 42


def test_axes_of_a_map_end_at_its_edges_and_dense_maps_have_no_gaps(figure):
    for trace in maps_of(figure):
        rows, columns = np.asarray(trace.z).shape
        if max(rows, columns) > 40:
            assert trace.xgap == trace.ygap == 0
        for letter, n in (("x", columns), ("y", rows)):
            axis = figure.layout[f"{letter}axis{(trace[f'{letter}axis'] or letter)[1:]}"]
            if axis.type != "category":
                assert sorted(axis.range) == [-0.5, n - 0.5]


def test_a_colour_bar_has_ticks_at_both_ends_and_a_unit(figure):
    if not maps_of(figure):
        return
    axis = figure.layout.coloraxis
    assert [axis.colorbar.tickvals[0], axis.colorbar.tickvals[-1]] == pytest.approx([axis.cmin, axis.cmax])
    assert axis.colorbar.title.text


def test_no_line_of_a_title_is_cut_at_420_pixels(figure):
    assert all(len(line) <= TITLE_LINE for line in figure.layout.title.text.split("<br>"))
    for line in figure.layout.title.subtitle.text.split("<br>"):
        assert len(line) <= LINE or " " not in line.strip("[]")


def test_rows_that_are_left_out_are_summed():
    found = examples.attribution(tokens=TOKENS, answer=ANSWER)
    (trace,) = found.plot().data
    assert list(trace.y)[-1] == "rest (160)"
    np.testing.assert_allclose(np.asarray(trace.z)[:, :-1].sum(0), found.per_answer_token.sum(0))
    whole = decomposition("source")
    (trace,) = whole.plot("tokens").data
    np.testing.assert_allclose(np.sum(trace.x), whole.values.mean(-1).sum())


@pytest.mark.parametrize(("cells", "shown"), [(40, True), (41, False)])
def test_maps_of_at_most_40_cells_show_their_numbers(cells, shown):
    fig = finish(go.Figure(go.Heatmap(z=noise(cells, 1).numpy(), coloraxis="coloraxis")))
    assert (fig.data[0].texttemplate is not None) == shown


def test_a_figure_describes_itself(figure):
    assert figure.layout.title.text.split("<br>")[0] in figure.alt
    if maps_of(figure):
        assert "the largest is" in figure.alt


def test_finishing_again_changes_nothing():
    fig = examples.model_diff().plot()
    assert finish(fig) is fig


def test_every_kind_of_file_is_written_without_a_browser(tmp_path):
    fig = examples.model_diff().plot("heads")
    png = Image.open(fig.save(tmp_path / "a.png", width=600))
    assert png.width == 1200
    root = ET.parse(fig.save(tmp_path / "a.svg")).getroot()
    assert root.find("{http://www.w3.org/2000/svg}title").text.startswith("Direct contribution of each head")
    page = fig.save(tmp_path / "a.html").read_text()
    assert "cdn.plot.ly" not in page.split("</script>")[-2]
    assert page.count("<script") >= 1


def test_a_pdf_without_kaleido_says_how_to_get_it(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ValueError("no kaleido")

    monkeypatch.setattr(go.Figure, "to_image", fails)
    with pytest.raises(
        InputError, match=r'unpact-lens\[image\]", then run plotly_get_chrome; .html, .svg and .png need'
    ):
        examples.model_diff().plot().save(tmp_path / "a.pdf")


@pytest.mark.parametrize("name", ["a.gif", "a", "a.jpeg"])
def test_an_unknown_kind_of_file_is_named(tmp_path, name):
    with pytest.raises(
        InputError, match=rf"cannot save a figure as '{name}'; end the name in .html, .svg, .png or .pdf"
    ):
        examples.model_diff().plot().save(tmp_path / name)


def test_an_unknown_option_of_a_figure_is_named():
    with pytest.raises(InputError, match="the figure of a ModelDiff has no option 'whta'; did you mean 'what'"):
        examples.model_diff().plot(whta="heads")
    with pytest.raises(InputError, match=r"what='head'; did you mean 'heads'"):
        examples.model_diff().plot("head")
    with pytest.raises(InputError, match="by 'component' does not show sources; decompose"):
        examples.decomposition("component").plot("sources")


def test_text_of_users_is_text_in_a_picture():
    svg = examples.attribution().plot().svg()
    ET.fromstring(svg)
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg


def test_a_picture_shows_the_values_of_the_figure():
    values = np.array([[1.0, -1.0], [0.0, 0.5]])
    fig = finish(go.Figure(go.Heatmap(z=values, coloraxis="coloraxis")))
    fig.update_layout(coloraxis={"cmin": -1, "cmax": 1, "showscale": False})
    from unpact_lens.plots.drawing import Cells

    (cells,) = [shape for shape in draw(fig).shapes if isinstance(shape, Cells)]
    # Rows of the drawing go down, those of a plain axis up; the ends of the scale are its darkest colours.
    assert cells.colours[1] == ("#0b3c6f", "#8c2d04")
    assert cells.colours[0][0] == "#ffffff"


def log_figure(trace) -> list:
    fig = finish(go.Figure(trace))
    fig.update_layout(xaxis={"type": "log"})
    return list(draw(fig).shapes)


def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_axis():
    """With its error bars and ticks; what is not positive has no place."""
    trace = go.Scatter(
        x=[1, 10, 100, 0], y=[0, 1, 2, 3], mode="markers", marker={"color": "#123456"},
        error_x={"array": [9, 90, 0, 0], "arrayminus": [0, 9, 0, 0], "color": "#654321"},
    )  # fmt: skip
    shapes = log_figure(trace)
    marks = [s.points for s in shapes if isinstance(s, Polygon) and s.fill == "#123456"]
    one, ten, hundred = (sum(x for x, _ in points) / len(points) for points in marks)
    assert ten - one == pytest.approx(hundred - ten)
    bars = [
        s.points for s in shapes if isinstance(s, Line) and s.stroke == "#654321" and s.points[0][0] != s.points[1][0]
    ]
    assert [(a, b) for (a, _), (b, _) in bars][:2] == [pytest.approx((one, ten)), pytest.approx((one, hundred))]
    ticks = {s.text: s.x for s in shapes if isinstance(s, Label)}
    assert (ticks["1"], ticks["10"], ticks["100"]) == pytest.approx((one, ten, hundred))


def test_bars_of_a_logarithmic_axis_start_at_its_low_end():
    shapes = log_figure(go.Bar(x=[10, 100, 1000], y=["a", "b", "c"], orientation="h", marker={"color": "#123456"}))
    boxes = [s.points for s in shapes if isinstance(s, Polygon) and s.fill == "#123456"]
    starts, ends = zip(*((min(x for x, _ in b), max(x for x, _ in b)) for b in boxes), strict=True)
    assert starts[0] == pytest.approx(starts[1]) == pytest.approx(starts[2])
    assert ends[1] - ends[0] == pytest.approx(ends[2] - ends[1])


def test_dark_figures_have_light_text_on_a_dark_page():
    set_theme("dark")
    try:
        fig = examples.model_diff().plot("heads")
    finally:
        set_theme("light")
    assert fig.layout.paper_bgcolor == "#1B2128"
    page = draw(fig)
    assert page.background == "#1B2128"
    pixels = np.asarray(page.image().convert("L"), dtype=float)
    assert pixels[0, 0] < 50
    assert pixels.max() > 200
    light = examples.model_diff().plot("heads").dark()
    assert light.layout.paper_bgcolor == fig.layout.paper_bgcolor
    with pytest.raises(InputError, match="give 'light' or 'dark'"):
        set_theme("blue")


@pytest.mark.parametrize(
    "make", [examples.attribution, examples.model_diff, examples.patching_map], ids=lambda m: m.__name__
)
def test_cells_of_a_dark_map_are_apart_by_the_page_and_not_by_white_lines(make):
    page = draw(make().plot().dark())
    lines = set(re.findall(r"stroke='([^']+)'", page.svg()))
    assert not {line for line in lines if line in ("#fff", "#ffffff", "white")}


def test_a_bundle_has_no_png_which_jupyterlab_would_show_in_place_of_the_figure():
    bundle = examples.model_diff().plot("heads")._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.plotly.v1+json", "image/svg+xml", "text/plain"}


def test_a_notebook_scrolls_a_wide_figure_and_fits_all_others():
    def width(figure):
        return figure._repr_mimebundle_()["application/vnd.plotly.v1+json"]["layout"].get("width")

    side_by_side, one_map = examples.model_diff().plot("heads"), examples.patching_map().plot()
    assert [width(side_by_side), width(one_map)] == [WIDE, None]
    cell = studies.study().cells[0]
    assert [width(cell.recovery.plot()), width(cell.scores.plot())] == [WIDE, WIDE]  # two columns of labels; a table
    assert side_by_side.layout.width is None  # a saved file has the width that is asked for
    assert {axis.ticks for axis in side_by_side.select_yaxes({"showticklabels": False})} == {""}


def test_a_title_of_two_lines_starts_as_low_as_one_of_one_line():
    one, two = (finish(theme.figure(text, "unit")) for text in ("Title", "A title of two lines " * 4))
    assert "<br>" in two.layout.title.text
    assert two.layout.title.pad.t - (one.layout.title.pad.t or TITLE_PAD) == 11  # plotly.js: 0.7 em of 16 px
    assert theme.TEMPLATE.layout.title.pad.t == TITLE_PAD


def test_a_low_colour_bar_has_three_ticks():
    def ticks(height):
        drawn = go.Figure(go.Heatmap(z=[[1.0, -1.0]], coloraxis="coloraxis"))
        drawn.update_layout(coloraxis=theme.diverging_axis(1.0, "nats"), height=height)
        return list(finish(drawn).layout.coloraxis.colorbar.ticktext)

    assert ticks(240) == ["−1.00", "0.00", "1.00"]
    assert len(ticks(450)) == 5


def test_a_long_legend_is_on_the_page():
    fig = go.Figure([go.Scatter(x=[i], y=[i], name=f"method {i}", mode="markers") for i in range(40)])
    page = draw(finish(fig))
    lowest = max(shape.y for shape in page.shapes if isinstance(shape, Label) and shape.text.startswith("method"))
    assert lowest < page.height
    assert "method 39" in page.svg()


def test_every_figure_of_a_study_is_drawn():
    study = studies.study()
    for result in (study, study.cells[0].scores, study.cells[0].focus):
        assert Image.open(io.BytesIO(result.plot().png())).width == 1800
