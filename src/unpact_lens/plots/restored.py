"""What interventions bring back over a data set, drawn with intervals and beside the noise floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_axes, head_heatmap, head_map_height
from unpact_lens.plots.summary import clear_of_zero, whiskers

if TYPE_CHECKING:
    from unpact_lens.comparison.restored import KeyPathSummary, PatchingSummary


def patching_summary(summary: PatchingSummary) -> go.Figure:
    """Mean change of the answer's log-probability by each patch or graft; the noise floor beside it, on one scale.

    A black dot marks a mean whose interval excludes 0; hover gives the share of the gap between the models.
    """
    sides = {"": summary} if summary.floor is None else {"patched": summary, "noise floor": summary.floor}
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
        fig.add_trace(clear_of_zero(change), row=1, col=column)
    shown = [theme.array(side.change)[..., 0] for side in sides.values()]
    graft = summary.what.startswith("weights")
    theme.dress(
        fig,
        f"{'Grafting' if graft else 'Patching each'} {theme.escape(summary.what)}, "
        f"{theme.escape(summary.direction.replace('_', ' '))}",
        theme.escape(
            f"mean change of the answer's log-probability [nats] over {len(summary.ids)} questions; gap between the "
            f"models {float(summary.gap[0]):.2f}; black dot: the {summary.level:.0%} interval excludes 0"
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


def key_path_summary(summary: KeyPathSummary) -> go.Figure:
    """Share of the loss that comes back by each way with its interval, and each head alone.

    Diamonds are the noise floor: its nats as a share of this loss.
    """
    share, heads = theme.array(summary.share), theme.array(summary.by_head)
    ways = ["KeyTokens", "as many other tokens", "all tokens"]
    fig = make_subplots(
        1,
        2,
        column_widths=[0.45, 0.55],
        horizontal_spacing=0.16,
        subplot_titles=["share of the loss that comes back", "each head alone, KeyTokens"],
    )
    fig.add_trace(
        go.Bar(
            x=share[:, 0],
            y=ways,
            error_x=whiskers(share),
            orientation="h",
            showlegend=False,
            marker={"color": [theme.PALETTE[0], theme.MUTED, theme.PALETTE[2]]},
            hovertemplate="%{y}<br>%{x:.1%} of the loss<extra></extra>",
        ),
        row=1,
        col=1,
    )
    fig.add_trace(head_heatmap(heads[..., 0]), row=1, col=2)
    fig.add_trace(clear_of_zero(heads), row=1, col=2)
    fig.update_traces(hovertemplate="%{customdata}<br>%{z:+.4f} nats<extra></extra>", selector={"type": "heatmap"})
    loss = float(summary.loss[0])
    if summary.floor is not None and loss:
        fig.add_trace(theme.floor_marks(theme.array(summary.floor.change)[:, 0] / loss, ways), row=1, col=1)
    theme.dress(
        fig,
        "Does the loss run through attention to the KeyTokens?",
        theme.escape(
            f"{len(summary.ids)} questions, mean loss {loss:.2f} nats; put back: {summary.restore}; "
            f"{summary.level:.0%} intervals over subjects; black dot: the interval excludes 0"
        ),
        height=max(380, head_map_height(heads[..., 0])),
        coloraxis=theme.diverging_axis(theme.symmetric_limit([heads[..., 0]]), "nats"),
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
    )
    head_axes(fig, heads[..., 0])
    fig.layout.xaxis.update(title=None, dtick=None, tick0=None, tickformat=".0%", showgrid=True)
    fig.layout.yaxis.update(title=None, dtick=None, tick0=None, type="category")
    fig.layout.yaxis2.title = "layer"
    return fig
