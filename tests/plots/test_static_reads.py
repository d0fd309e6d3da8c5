"""Everything that a figure holds is read by the drawing without a browser, or is listed here with the reason."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import pytest

from tests.plots import examples
from tests.plots.test_figure import DRAWN
from tests.test_experiments import drawn
from unpact_lens.plots.static import draw

DOCS = Path(__file__).parents[2] / "docs"

UNREAD = {
    r"data\.\w+\.(customdata|hover\w+)": "there is no pointer",
    r"data\.\w+\.error_[xy]\.(symmetric|thickness|width)": "caps and lines have one size; both arrays are read",
    r"data\.(bar|scatter)\.marker\.line(\.color)?": "white edges of marks",
    r"data\.heatmap\.(colorbar\.x|ygap)": "one colour bar stands right of the plots; gaps are equal both ways",
    r"data\.scatter\.cliponaxis": "marks are never cut",
    r"data\.(scatter|bar)\.(legendgroup|offsetgroup)": "entries of one name are one",
    r"data\.table\.(cells|header)\.(align|fill|height)": "tables have one look",
    r"data\.waterfall\.(connector|offsetgroup)": "steps have no connectors and stand side by side",
    r"data\.box\.(jitter|pointpos|text|line)": "points are spread over one width, and a box without a line is none",
    r"layout\.(annotations\.font\.size|title\.(pad|subtitle\.font)|margin\.[lr])": "texts have the picture's own sizes",
    r"layout\.(bargap|boxgap|waterfallgap|waterfallmode)": "bars have one width",
    r"layout\.coloraxis\.colorbar\.(outlinewidth|thickness|title\.side|x|len\w*)": "colour bars have one look",
    r"layout\.legend\.(x|y|xanchor|yanchor|traceorder)": "the legend stands above or right of the plots",
    r"layout\.(meta|template|updatemenus|hover\w+)": "alternative text, colours read from the page, buttons",
    r"layout\.[xy]axis\.(anchor|tick|tickangle|tickfont|ticks|dividercolor|automargin|constrain)": "texts at ticks",
}
"""What is not read, as a pattern of `data.<type of trace>.<attribute>` or `layout.<attribute>`, and why."""

ONLY = {
    r"data\.\w+\.error_[xy]\.type": {"data"},
    r"data\.box\.boxpoints": {"all"},
    r"data\.box\.fillcolor": {"rgba(0,0,0,0)"},
    r"layout\.barmode": {"group", "overlay"},
}
"""What is not read and therefore must have one of these values."""


SMALL = (
    *(
        "attribution",
        "interactions",
        "sensitivity",
        "faithfulness",
        "method_comparison",
        "decomposition",
        "lens_curves",
    ),
    *("lens_curves", "model_diff", "head_split", "weight_changes", "activation_changes", "focus", "patching_map"),
    "history",
)
"""Results of `examples` whose figures are looked at too."""


class Watched(Mapping):
    """Hold a part of a figure and note which of its attributes are held and which are read."""

    def __init__(self, part, path, log):
        self.path, self.log = path, log
        self.part = {key: watched(value, self._place(key), log) for key, value in part.items()}
        for key, value in part.items():
            if value is not None:
                log[self._place(key)].add(("held", value if isinstance(value, str) else ""))

    def _place(self, key):
        return f"{self.path}.{re.sub(r'[0-9]+$', '', key)}"

    def __getitem__(self, key):
        value = self.part[key]
        self.log[self._place(key)].add(("read", ""))
        return value

    def __iter__(self):
        return iter(self.part)

    def __len__(self):
        return len(self.part)


def watched(value, path, log):
    if isinstance(value, Mapping) and "bdata" not in value:
        return Watched(value, path, log)
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        return [watched(item, path, log) for item in value]
    return value


class Given:
    """Stand for a figure."""

    def __init__(self, data, layout, log):
        self.data = [Watched(trace, f"data.{trace.get('type', 'scatter')}", log) for trace in data]
        self.layout = Watched(layout, "layout", log)

    def to_plotly_json(self):
        return {"data": self.data, "layout": self.layout}


def figures():
    """Yield data and layout of figures: of real models' shapes, of the notebooks, and of the experiments."""
    small = [getattr(examples, name)().plot for name in SMALL]
    for draw_one in (*DRAWN.values(), *drawn().values(), *small):
        made = draw_one().to_plotly_json()
        yield made["data"], made["layout"]
    for path in sorted(DOCS.rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if held := output.get("data", {}).get("application/vnd.plotly.v1+json"):
                    yield held["data"], held["layout"]


def unread(given):
    """Return the attributes of figures that the drawing does not read, with their values."""
    log = defaultdict(set)
    for data, layout in given:
        draw(Given(data, layout, log))
    places = {place: {value for what, value in notes if what == "held"} for place, notes in log.items()}
    missed = {place for place, notes in log.items() if ("read", "") not in notes}
    inner = {place for place in missed if any(place.startswith(f"{other}.") for other in missed)}
    return {place: places[place] for place in missed - inner if places[place]}


def refused(missed):
    """Return the unread attributes that are on neither list, or have a value that is not allowed."""
    return sorted(
        place
        for place, values in missed.items()
        if not any(re.fullmatch(pattern, place) for pattern in UNREAD)
        and not any(re.fullmatch(pattern, place) and values <= allowed for pattern, allowed in ONLY.items())
    )


def test_every_attribute_of_every_figure_is_read_or_listed():
    given = list(figures())
    assert len(given) > 50
    missed = unread(given)
    assert refused(missed) == []
    unused = [pattern for pattern in (*UNREAD, *ONLY) if not any(re.fullmatch(pattern, place) for place in missed)]
    assert unused == []


@pytest.mark.parametrize(
    ("fig", "place"),
    [
        (go.Figure(go.Scatter(x=[1], y=[1], fill="tozeroy")), "data.scatter.fill"),
        (go.Figure(go.Scatter(x=[1], y=[1], error_y={"type": "percent", "value": 10})), "data.scatter.error_y.type"),
        (go.Figure(go.Bar(x=[1], y=[1], base=[2])), "data.bar.base"),
        (go.Figure(go.Bar(x=[1], y=[1]), {"barmode": "stack"}), "layout.barmode"),
    ],
)
def test_an_attribute_that_changes_the_picture_and_is_not_read_is_found(fig, place):
    made = fig.to_plotly_json()
    layout = {k: v for k, v in made["layout"].items() if k != "template"}
    assert place in refused(unread([(made["data"], layout)]))
