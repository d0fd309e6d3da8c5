"""Draw how the focus on the prompt's words moved between two models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.attribution import unit
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from unpact_lens.comparison.focus import Focus

AGREEMENT = {"spearman": "Spearman correlation", "overlap": "KeyToken overlap (Jaccard)"}
"""Measures of one item over both models."""

PAIRED = {
    "mass": "KeyToken mass",
    "entropy": "entropy of |C| [nats]",
    "subject_rank": "rank of the subject",
    "subject_score": "contribution of the subject",
}
"""Measures of each model: `{name}_before`, `{name}_after`."""


@finished
def focus_shift(focus: Focus) -> go.Figure:
    """Draw each item as a dot beside the mean and its interval: agreement of the two models, then before and after.

    Args:
        focus: Measures of each item. Measures that are undefined for an item have no dot.
    """
    titles = [*AGREEMENT.values(), *PAIRED.values()]
    if focus.before:
        titles[-1] += f" [{unit(focus.before[0])}]"
    fig = make_subplots(2, 3, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.09)
    prompts = [theme.escape(theme.short(a.prompt, 80)) for a in focus.before]
    places = [(row, column) for row in (1, 2) for column in (1, 2, 3)]
    for name, (row, column) in zip([*AGREEMENT, *PAIRED], places, strict=True):
        columns = (
            {"before with after": name} if name in AGREEMENT else {"before": f"{name}_before", "after": f"{name}_after"}
        )
        for k, (label, measure) in enumerate(columns.items()):
            _strip(fig, focus, label, measure, prompts, theme.PALETTE[k], (row, column))
        if focus.floor is not None:
            label, measure = ("noise baseline", name if name in AGREEMENT else f"{name}_after")
            _strip(fig, focus.floor, label, measure, prompts, theme.MUTED, (row, column))
    for column in (1, 2, 3):
        fig.update_yaxes(range=[-1.05, 1.05] if column == 1 else [-0.05, 1.05], row=1, col=column)
    fig.update_yaxes(autorange="reversed", row=2, col=2)
    subtitle = (
        f"{len(focus.before)} items, KeyTokens by {_rule(focus)}; diamonds: mean with its "
        f"{focus.level:.0%} interval over subjects"
    )
    theme.dress(fig, "Does the model still attend to the same words?", theme.escape(subtitle), height=640)
    fig.update_layout(showlegend=False)
    fig.update_xaxes(showgrid=False)
    return fig


def _rule(focus: Focus) -> str:
    """Name the rule without options that are off, e.g. `TopK(k=3)`."""
    settings = ", ".join(f"{name}={value}" for name, value in vars(focus.rule).items() if value)
    return f"{type(focus.rule).__name__}({settings})"


def _strip(
    fig: go.Figure, focus: Focus, label: str, measure: str, prompts: list[str], colour: str, cell: tuple[int, int]
) -> None:
    """Draw dots of all items at one place of the x axis, and their mean with its interval, in facet (row, column)."""
    values = theme.array(focus.measures[measure])
    fig.add_trace(
        go.Box(
            x=[label] * len(values),
            y=values,
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            fillcolor="rgba(0,0,0,0)",
            line={"color": "rgba(0,0,0,0)"},
            marker={"color": colour, "size": 5, "opacity": 0.45},
            hoveron="points",
            text=prompts,
            hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
        ),
        row=cell[0],
        col=cell[1],
    )
    mean, low, high, n = theme.array(focus.means[measure]).tolist()
    fig.add_trace(
        go.Scatter(
            x=[label],
            y=[mean],
            error_y={
                "type": "data",
                "array": [high - mean],
                "arrayminus": [mean - low],
                "color": theme.INK,
                "width": 6,
            },
            mode="markers",
            marker={"symbol": "diamond", "size": 11, "color": theme.INK},
            hovertemplate=f"mean %{{y:.3f}} [{low:.3f}, {high:.3f}], n = {n:.0f}<extra></extra>",
        ),
        row=cell[0],
        col=cell[1],
    )
