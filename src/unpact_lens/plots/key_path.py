"""Draw the share of the loss that runs through attention to the KeyTokens: one question, and many with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_axes, head_heatmap, head_map_height
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from unpact_lens.comparison import KeyPath, KeyPathSummary


@finished
def key_path(path: KeyPath) -> go.Figure:
    """Draw how much of the loss comes back when heads read the KeyTokens as in the original model: all heads, and each.

    A noise baseline is drawn as diamonds on the bars (its nats as a share of this loss), and as a second head map.
    """
    ways = {"KeyTokens": path.share, "as many other tokens": path.share_rest, "all tokens": path.share_all}
    maps = {"each head alone, KeyTokens": theme.array(path.values)}
    if path.floor is not None:
        maps["noise baseline"] = theme.array(path.floor.values)
    fig = make_subplots(
        1,
        1 + len(maps),
        column_widths=[0.45, *([0.55 / len(maps)] * len(maps))],
        horizontal_spacing=0.16 / len(maps),
        subplot_titles=["share of the loss that comes back", *maps],
    )
    fig.add_trace(
        go.Bar(
            x=list(ways.values()),
            y=list(ways),
            orientation="h",
            marker={"color": [theme.PALETTE[0], theme.MUTED, theme.PALETTE[2]]},
            showlegend=False,
            hovertemplate="%{y}<br>%{x:.1%} of the loss<extra></extra>",
        ),
        row=1,
        col=1,
    )
    for column, values in enumerate(maps.values(), start=2):
        fig.add_trace(head_heatmap(values), row=1, col=column)
    fig.update_traces(hovertemplate="L%{y}H%{x}<br>%{z:+.4f} nats<extra></extra>", selector={"type": "heatmap"})
    if path.floor is not None:
        shares = path.to_frame()["share_floor"].tolist()[2:]
        fig.add_trace(theme.floor_marks(shares, list(ways)), row=1, col=1)
    keys = ", ".join(theme.visible(path.tokens[i]).strip("␣") for i in path.keys)
    theme.dress(
        fig,
        "Does the loss run through attention to the KeyTokens?",
        theme.escape(
            f"restored: {path.restore}; LP {path.log_prob_before:.2f} before, {path.log_prob_after:.2f} after [nats]; "
            f"KeyTokens: {theme.short(keys)}"
        ),
        height=max(360, head_map_height(theme.array(path.values))),
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit(maps.values()), "nats"),
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
    )
    head_axes(fig, theme.array(path.values))
    fig.layout.xaxis.update(title=None, dtick=None, tick0=None, tickformat=".0%", showgrid=True)
    fig.layout.yaxis.update(title=None, dtick=None, tick0=None, type="category")
    fig.layout.yaxis2.title = "layer"
    return fig


@finished
def key_path_summary(summary: KeyPathSummary) -> go.Figure:
    """Draw the share of the loss that comes back in each way with its interval, and each head alone.

    Diamonds are the noise baseline: its nats as a share of this loss.
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
            error_x=theme.whiskers(share),
            orientation="h",
            showlegend=False,
            marker={"color": [theme.PALETTE[0], theme.MUTED, theme.PALETTE[2]]},
            hovertemplate="%{y}<br>%{x:.1%} of the loss<extra></extra>",
        ),
        row=1,
        col=1,
    )
    fig.add_trace(head_heatmap(heads[..., 0]), row=1, col=2)
    fig.add_trace(theme.significant(summary.adjusted_p.get("by_head"), summary.level), row=1, col=2)
    fig.update_traces(hovertemplate="L%{y}H%{x}<br>%{z:+.4f} nats<extra></extra>", selector={"type": "heatmap"})
    loss = float(summary.loss[0])
    if summary.floor is not None and loss:
        fig.add_trace(theme.floor_marks(theme.array(summary.floor.change)[:, 0] / loss, ways), row=1, col=1)
    theme.dress(
        fig,
        "Does the loss run through attention to the KeyTokens?",
        theme.escape(
            f"{len(summary.ids)} questions, mean loss {loss:.2f} nats; restored: {summary.restore}; "
            f"{summary.level:.0%} intervals over subjects; {theme.dot_legend(summary.level)}"
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
