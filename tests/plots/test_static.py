"""Pictures drawn without a browser show what plotly.js shows: styles of traces, colour scales, texts, ranges."""

import re

import plotly.graph_objects as go
import pytest
from PIL import Image

from unpact_lens.errors import InputError
from unpact_lens.plots import theme
from unpact_lens.plots.drawing import Cells, Label, Line, Polygon
from unpact_lens.plots.figure import Figure
from unpact_lens.plots.static import draw

X, Y = [0.0, 1.0, 2.0], [1.0, 3.0, 2.0]


def shapes(fig, kind):
    return [shape for shape in draw(fig).shapes if isinstance(shape, kind)]


def lines(fig, colour="#123456"):
    return [line for line in shapes(fig, Line) if line.stroke == colour]


@pytest.mark.parametrize(("dash", "dashed"), [(None, False), ("solid", False), ("dash", True), ("dot", True)])
def test_a_line_is_dashed_where_its_trace_or_shape_says_so(dash, dashed):
    style = {"color": "#123456", "dash": dash}
    trace = go.Figure(go.Scatter(x=X, y=Y, mode="lines", line=style))
    shape = go.Figure(go.Scatter(x=X, y=Y)).add_vline(x=1.5, line=style)
    for fig in (trace, shape):
        assert [bool(line.dash) for line in lines(fig)] == [dashed]


def test_error_bars_have_their_own_colour_else_that_of_their_trace():
    bars = {"array": [0.1] * 3}
    inherited = go.Figure(go.Scatter(x=X, y=Y, mode="markers", error_y=bars, marker={"color": "#123456"}))
    own = go.Figure(go.Scatter(x=X, y=Y, mode="markers", error_y={**bars, "color": "#123456"}))
    assert len(lines(inherited)) == len(lines(own)) == 9


def test_a_map_with_its_own_scale_is_drawn_as_with_a_colour_axis_and_has_a_colour_bar():
    z, scale = [[-1.0, 0.5], [0.0, 1.0]], [[0, "#000000"], [0.5, "#ffffff"], [1, "#ff0000"]]
    own = go.Figure(go.Heatmap(z=z, colorscale=scale, zmin=-1, zmax=1, colorbar={"title": "excess"}))
    shared = go.Figure(go.Heatmap(z=z, coloraxis="coloraxis"))
    shared.update_layout(
        coloraxis={"colorscale": scale, "cmin": -1, "cmax": 1, "colorbar": {"title": {"text": "excess"}}}
    )
    assert [c.colours for c in shapes(own, Cells)] == [c.colours for c in shapes(shared, Cells)]
    assert shapes(own, Cells)[0].colours == (("#000000", "#ff8080"), ("#ffffff", "#ff0000"))[::-1]
    assert [t.text for t in shapes(own, Label)] == [t.text for t in shapes(shared, Label)]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({"zmin": 0, "zmax": 4}, ("#404040", "#808080")),
        ({}, ("#000000", "#ffffff")),
        ({"zmid": 0}, ("#c0c0c0", "#ffffff")),
    ],
)
def test_ends_of_a_scale_that_are_not_given_are_those_of_the_values(ends, expected):
    fig = go.Figure(go.Heatmap(z=[[1.0, 2.0]], colorscale=[[0, "#000000"], [1, "#ffffff"]], **ends))
    found = [theme.channels(colour)[0] for colour in shapes(fig, Cells)[0].colours[0]]
    assert found == pytest.approx([theme.channels(colour)[0] for colour in expected], abs=3)


def test_cells_hold_the_text_that_the_template_asks_for():
    fig = go.Figure(go.Heatmap(z=[[0.25, -0.5]], text=[["a*", "b"]], texttemplate="%{text} %{z:.1f}"))
    assert {"a* 0.2", "b −0.5"} <= {label.text for label in shapes(fig, Label)}


def test_each_point_has_its_own_symbol_size_and_text():
    marker = {"symbol": ["circle", "square-open", "circle"], "size": [6, 20, 6], "color": "#123456"}
    fig = go.Figure(go.Scatter(x=X, y=Y, mode="markers+text", text=["p", "q", "r"], marker=marker))
    points = [p for p in shapes(fig, Polygon) if p.stroke == "#123456"]
    assert [p.fill for p in points] == ["#123456", "", "#123456"]
    wide = [max(x for x, _ in p.points) - min(x for x, _ in p.points) for p in points]
    assert wide[1] == pytest.approx(0.9 * 20)
    assert wide[0] == pytest.approx(6, rel=0.01)
    assert {"p", "q", "r"} <= {label.text for label in shapes(fig, Label)}


def test_an_axis_holds_the_shapes_on_it():
    fig = go.Figure(go.Scatter(x=[5.0, 6.0], y=Y[:2], mode="markers")).add_vline(x=0, line={"color": "#123456"})
    (line,) = lines(fig)
    ticks = [label for label in shapes(fig, Label) if re.fullmatch(r"[0-6]", label.text) and label.anchor == "middle"]
    assert line.points[0][0] == pytest.approx(next(t.x for t in ticks if t.text == "0"), abs=0.5)
    assert line.points[0][0] > 30


@pytest.mark.parametrize("trace", [go.Pie(values=[1, 2]), go.Histogram(x=X), go.Violin(y=Y)])
def test_a_trace_that_cannot_be_drawn_is_refused_by_name_and_never_left_out(tmp_path, trace):
    fig = Figure([go.Scatter(x=X, y=Y), trace])
    message = f"shows no {trace.type}; it shows bar, box, heatmap, scatter, table, waterfall; give kaleido=True"
    for save in (lambda: fig.save(tmp_path / "a.png"), lambda: fig.save(tmp_path / "a.svg"), fig.svg, fig.png):
        with pytest.raises(InputError, match=message):
            save()
    assert set(fig._repr_mimebundle_()) == {"application/vnd.plotly.v1+json", "text/plain"}
    assert "<img" not in fig._repr_html_()
    assert fig.save(tmp_path / "a.html").is_file()
    fig.data[1].visible = False
    assert Image.open(fig.save(tmp_path / "a.png")).width == 1800
