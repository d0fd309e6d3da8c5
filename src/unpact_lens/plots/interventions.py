"""What interventions found, drawn: attention before and after, paths through it, depth of unlearning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_axes, head_heatmap, head_map_height
from unpact_lens.plots.summary import whiskers

if TYPE_CHECKING:
    from unpact_lens.comparison.attention_patterns import AttentionPatterns
    from unpact_lens.comparison.key_path import KeyPath
    from unpact_lens.comparison.unlearning_depth import UnlearningDepth


def attention_patterns(patterns: AttentionPatterns) -> go.Figure:
    """Attention of the chosen heads before | after | Δ, query downwards, key across; a menu picks the head.

    All heads and facets share one symmetric scale; a noise floor is a second row. What lies above the diagonal, which
    no causal head sees, is blank.
    """
    labels = theme.token_labels(patterns.tokens)
    future = np.triu(np.ones((len(labels), len(labels)), dtype=bool), k=1)
    names = ["L{}H{}".format(*head) for head in patterns.heads]
    rows = [patterns] if patterns.floor is None else [patterns, patterns.floor]
    titles = ["before", "after", "Δ"]
    if patterns.floor is not None:
        titles += [f"noise floor: {title}" for title in ("first", "second", "Δ")]
    fig = make_subplots(
        len(rows), 3, shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.03, vertical_spacing=0.08,
        subplot_titles=titles,
    )  # fmt: skip
    for i, name in enumerate(names):
        for row, side in enumerate(rows, start=1):
            before, after = (np.where(future, np.nan, theme.array(p[i])) for p in (side.before, side.after))
            for column, values in enumerate((before, after, after - before), start=1):
                heatmap = go.Heatmap(
                    z=values,
                    x=labels,
                    y=labels,
                    name=name,
                    visible=i == 0,
                    coloraxis="coloraxis",
                    hovertemplate=f"{name}: %{{y}} reads %{{x}}<br>%{{z:.3f}}<extra></extra>",
                )
                fig.add_trace(heatmap, row=row, col=column)
    buttons = [
        {
            "label": f"{name} (Δ {float(delta):+.2f} logits)",
            "method": "restyle",
            "args": [{"visible": [name == other for other in names for _ in range(3 * len(rows))]}],
        }
        for name, delta in zip(names, patterns.delta, strict=True)
    ]
    theme.dress(
        fig,
        "Where the most changed heads look",
        theme.escape(f"attention weights; answer “{theme.short(patterns.answer.strip())}”"),
        height=320 + len(rows) * 18 * len(labels),
        margin={"t": 140},
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(1.0, "attention"),
        updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 28}}],
    )
    theme.token_axis(fig, patterns.tokens, 3)
    fig.update_xaxes(title="key", row=len(rows))
    fig.update_yaxes(title="query", col=1)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


def key_path(path: KeyPath) -> go.Figure:
    """How much of the lost answer comes back when heads read the KeyTokens as they did before: all heads, and each.

    A noise floor stands as diamonds on the bars (its nats as a share of this loss), and as a second head map.
    """
    ways = {"KeyTokens": path.share, "as many other tokens": path.share_rest, "all tokens": path.share_all}
    maps = {"each head alone, KeyTokens": theme.array(path.values)}
    if path.floor is not None:
        maps["noise floor"] = theme.array(path.floor.values)
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
    fig.update_traces(hovertemplate="%{customdata}<br>%{z:+.4f} nats<extra></extra>", selector={"type": "heatmap"})
    if path.floor is not None:
        shares = path.to_frame()["share_floor"].tolist()[2:]
        fig.add_trace(theme.floor_marks(shares, list(ways)), row=1, col=1)
    keys = ", ".join(theme.visible(path.tokens[i]).strip("␣") for i in path.keys)
    theme.dress(
        fig,
        "Does the loss run through attention to the KeyTokens?",
        theme.escape(
            f"put back: {path.restore}; LP {path.log_prob_before:.2f} before, {path.log_prob_after:.2f} after [nats]; "
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


def unlearning_depth(depth: UnlearningDepth) -> go.Figure:
    """Loss of the answer when a layer's state is taken from the retrain model, and from the unlearned one; item means.

    Where the two curves meet, the unlearned model's states hold as little of the answer as the retrain model's. Bars
    are intervals over subjects. A noise floor is a third curve: a model that differs by noise only.
    """
    ends = theme.array(depth.mean)
    interval = f" [{ends[1]:.2f}, {ends[2]:.2f}]" if np.isfinite(ends[1]) else ""
    noise = f", noise floor {depth.floor.score:.2f}" if depth.floor is not None else ""
    fig = theme.figure(
        "How deep unlearning reaches",
        f"mean over {len(depth.ids)} items, {depth.level:.0%} intervals over subjects; UDS {depth.score:.2f}{interval}"
        f"{noise} (0: still there, 1: as deep as retraining)",
        height=420,
    )
    curves = {"retrain model's state (Δ1)": depth.layers[0], "unlearned model's state (Δ2)": depth.layers[1]}
    if depth.floor is not None:
        curves["noise floor (Δ2)"] = depth.floor.layers[1]
    for k, (name, values) in enumerate(curves.items()):
        colour, symbol = (theme.MUTED, "diamond-open") if name.startswith("noise") else theme.series_style(k)
        table = theme.array(values)
        fig.add_trace(
            go.Scatter(
                x=list(depth.labels),
                y=table[:, 0],
                error_y={**whiskers(table), "color": colour},
                name=name,
                mode="lines+markers",
                line={"color": colour},
                marker={"symbol": symbol, "size": 7},
                hovertemplate="%{x}<br>%{y:.3f} nats<extra>%{fullData.name}</extra>",
            )
        )
    fig.add_hline(y=depth.threshold, line={"color": theme.MUTED, "dash": "dot"}, annotation_text="τ")
    fig.update_xaxes(type="category", title="state replaced at layer")
    fig.update_yaxes(title="loss of mean log-probability, nats")
    fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    return fig
