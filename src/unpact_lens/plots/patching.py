"""Draw what patching activations or grafting weights brings back: one question, and many with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_axes, head_heatmap, head_map_height
from unpact_lens.plots.figure import finished

MOST_PLACES = 60
"""Number of columns of a patching map; those with the smallest changes are left out."""

if TYPE_CHECKING:
    from unpact_lens.comparison import PatchingMap, PatchingSummary


@finished
def patching_map(patching: PatchingMap) -> go.Figure:
    """Draw the change of the answer's mean log-probability by each patch.

    Hovering shows the share of the gap that it closes. A noise baseline is below, on the same scale.
    """
    if len(patching.labels[1]) == 1:
        return _patching_bars(patching)
    maps = {"": patching} if patching.floor is None else {"patched": patching, "noise baseline": patching.floor}
    kept, rest = theme.strongest(theme.array(patching.values).T, MOST_PLACES)
    columns = [[theme.escape(theme.visible(side.labels[1][k])) for k in kept] for side in maps.values()]
    rows = [theme.escape(r) for r in patching.labels[0]]
    fig = make_subplots(len(maps), 1, shared_xaxes=True, subplot_titles=list(maps), vertical_spacing=0.12)
    for row, side in enumerate(maps.values(), start=1):
        heatmap = go.Heatmap(
            z=theme.array(side.values)[:, kept],
            x=columns[row - 1],
            y=rows,
            customdata=theme.array(side.restored)[:, kept],
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}<br>%{z:+.3f} nats, %{customdata:.0%} of the gap<extra></extra>",
        )
        fig.add_trace(heatmap, row=row, col=1)
    values = [theme.array(side.values) for side in maps.values()]
    verb = "Grafting" if patching.what.startswith("weights") else "Patching"
    theme.dress(
        fig,
        f"{verb} {theme.escape(patching.what)}, {theme.escape(patching.direction.replace('_', ' '))}",
        theme.escape(
            f"change of the mean log-probability of “{theme.short(patching.answer.strip())}” [nats], "
            f"{patching.method}; unpatched {patching.baseline:.2f}, the other model {patching.donor:.2f}"
            + (f"; the {len(kept)} strongest of {len(patching.labels[1])} columns" if rest else "")
        ),
        coloraxis=theme.diverging_axis(theme.symmetric_limit(values), "nats"),
        height=40 * (len(maps) - 1) + len(maps) * head_map_height(values[0]),
    )
    fig.update_xaxes(type="category", showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False, title="layer")
    return fig


def _patching_bars(patching: PatchingMap) -> go.Figure:
    """Draw a map of one column as one bar for each row, with the noise baseline as diamonds."""
    rows = [theme.escape(r) for r in patching.labels[0]]
    verb = "Grafting" if patching.what.startswith("weights") else "Patching"
    fig = theme.figure(
        f"{verb} {theme.escape(patching.what)}, {theme.escape(patching.direction.replace('_', ' '))}",
        theme.escape(
            f"change of the mean log-probability of “{theme.short(patching.answer.strip())}” [nats], "
            f"{patching.method}; unpatched {patching.baseline:.2f}, the other model {patching.donor:.2f}"
        ),
        height=200 + max(90, 22 * len(rows)),
    )
    bars = theme.signed_bars(
        theme.array(patching.values)[:, 0], rows, "%{y}<br>%{x:+.3f} nats, %{customdata:.0%} of the gap<extra></extra>"
    )
    bars.update(customdata=theme.array(patching.restored)[:, 0], showlegend=False)
    fig.add_trace(bars)
    if patching.floor is not None:
        fig.add_trace(theme.floor_marks(theme.array(patching.floor.values)[:, 0], rows))
        fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    fig.update_xaxes(title="nats")
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


@finished
def patching_summary(summary: PatchingSummary) -> go.Figure:
    """Draw the mean change of the answer's log-probability by each patch or graft, beside the noise baseline.

    A black dot marks a mean that is significant after correction for the whole map. Hovering shows the share of the gap
    between the models.
    """
    sides = {"": summary} if summary.floor is None else {"patched": summary, "noise baseline": summary.floor}
    fig = make_subplots(1, len(sides), subplot_titles=list(sides), shared_yaxes=True, horizontal_spacing=0.06)
    for column, side in enumerate(sides.values(), start=1):
        change = theme.array(side.change)
        heatmap = head_heatmap(change[..., 0])
        heatmap.text = [
            [f"{layer} {place}, {share:.0%} of the gap" for place, share in zip(side.labels[1], shares, strict=True)]
            for layer, shares in zip(side.labels[0], theme.array(side.share)[..., 0].tolist(), strict=True)
        ]
        heatmap.hovertemplate = "%{text}<br>%{z:+.3f} nats<extra></extra>"
        fig.add_trace(heatmap, row=1, col=column)
        fig.add_trace(theme.significant(side.adjusted_p.get("change"), side.level), row=1, col=column)
    shown = [theme.array(side.change)[..., 0] for side in sides.values()]
    graft = summary.what.startswith("weights")
    theme.dress(
        fig,
        f"{'Grafting' if graft else 'Patching each'} {theme.escape(summary.what)}, "
        f"{theme.escape(summary.direction.replace('_', ' '))}",
        theme.escape(
            f"mean change of the answer's log-probability [nats] over {len(summary.ids)} questions; gap between the "
            f"models {float(summary.gap[0]):.2f}; {theme.dot_legend(summary.level)}"
        ),
        coloraxis=theme.diverging_axis(theme.symmetric_limit(shown), "nats"),
        height=head_map_height(shown[0]),
    )
    head_axes(fig, shown[0])
    if summary.what != "head":
        columns = [theme.escape(name) for name in summary.labels[1]]
        fig.update_xaxes(
            title=None, tickvals=list(range(len(columns))), ticktext=columns, tickangle=-45 if graft else 0
        )
    if graft:
        rows = [theme.escape(name) for name in summary.labels[0]]
        fig.update_yaxes(title=None, tickvals=list(range(len(rows))), ticktext=rows)
    return fig
