"""What interventions found, drawn: attention before and after, paths through it, depth of unlearning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_axes, head_heatmap, head_map_height

if TYPE_CHECKING:
    from unpact_lens.comparison.attention import AttentionPatterns
    from unpact_lens.comparison.key_path import KeyPath
    from unpact_lens.comparison.uds import UnlearningDepth


def attention_patterns(patterns: AttentionPatterns) -> go.Figure:
    """Attention of the chosen heads before | after | Δ, query downwards, key across; a menu picks the head.

    All heads and facets share one symmetric scale. What lies above the diagonal, which no causal head sees, is blank.
    """
    labels = theme.token_labels(patterns.tokens)
    future = np.triu(np.ones((len(labels), len(labels)), dtype=bool), k=1)
    names = ["L{}H{}".format(*head) for head in patterns.heads]
    fig = make_subplots(1, 3, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=["before", "after", "Δ"])
    for i, name in enumerate(names):
        before, after = (np.where(future, np.nan, theme.array(p[i])) for p in (patterns.before, patterns.after))
        for column, values in enumerate((before, after, after - before), start=1):
            fig.add_trace(
                go.Heatmap(
                    z=values,
                    x=labels,
                    y=labels,
                    name=name,
                    visible=i == 0,
                    coloraxis="coloraxis",
                    hovertemplate=f"{name}: %{{y}} reads %{{x}}<br>%{{z:.3f}}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    buttons = [
        {
            "label": f"{name} (Δ {float(delta):+.2f} logits)",
            "method": "restyle",
            "args": [{"visible": [name == other for other in names for _ in range(3)]}],
        }
        for name, delta in zip(names, patterns.delta, strict=True)
    ]
    theme.dress(
        fig,
        "Where the most changed heads look",
        theme.escape(f"attention weights; answer “{theme.short(patterns.answer.strip())}”"),
        height=320 + 18 * len(labels),
        margin={"t": 140},
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(1.0, "attention"),
        updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 28}}],
        yaxis_title="query",
    )
    fig.update_xaxes(type="category", tickangle=-60, showgrid=False, title="key")
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


def key_path(path: KeyPath) -> go.Figure:
    """How much of the lost answer comes back when heads read the KeyTokens as they did before: all heads, and each."""
    ways = {"KeyTokens": path.share, "as many other tokens": path.share_rest, "all tokens": path.share_all}
    fig = make_subplots(
        1,
        2,
        column_widths=[0.45, 0.55],
        horizontal_spacing=0.16,
        subplot_titles=["share of the loss that comes back", "each head alone, KeyTokens"],
    )
    fig.add_trace(
        go.Bar(
            x=list(ways.values()),
            y=list(ways),
            orientation="h",
            marker={"color": [theme.PALETTE[0], theme.MUTED, theme.PALETTE[2]]},
            hovertemplate="%{y}<br>%{x:.1%} of the loss<extra></extra>",
        ),
        row=1,
        col=1,
    )
    values = theme.array(path.values)
    fig.add_trace(head_heatmap(values), row=1, col=2)
    fig.data[1].hovertemplate = "%{customdata}<br>%{z:+.4f} nats<extra></extra>"
    keys = ", ".join(theme.visible(path.tokens[i]).strip("␣") for i in path.keys)
    theme.dress(
        fig,
        "Does the loss run through attention to the KeyTokens?",
        theme.escape(
            f"put back: {path.restore}; LP {path.log_prob_before:.2f} before, {path.log_prob_after:.2f} after [nats]; "
            f"KeyTokens: {theme.short(keys)}"
        ),
        height=max(360, head_map_height(values)),
    )
    fig.update_layout(showlegend=False, coloraxis=theme.diverging_axis(theme.symmetric_limit([values]), "nats"))
    head_axes(fig, values)
    fig.layout.xaxis.update(title=None, dtick=None, tick0=None, tickformat=".0%", showgrid=True)
    fig.layout.yaxis.update(title=None, dtick=None, tick0=None, type="category")
    fig.layout.yaxis2.title = "layer"
    return fig


def unlearning_depth(depth: UnlearningDepth) -> go.Figure:
    """Loss of the answer when a layer's state is taken from the retrain model, and from the unlearned one; item means.

    Where the two curves meet, the unlearned model's states hold as little of the answer as the retrain model's.
    """
    fig = theme.figure(
        "How deep unlearning reaches",
        f"mean over {len(depth.ids)} items, nats; UDS {depth.score:.2f} (0: still there, 1: as deep as retraining)",
        height=420,
    )
    curves = {"retrain model's state (Δ1)": depth.delta_retrain, "unlearned model's state (Δ2)": depth.delta_unlearned}
    for k, (name, values) in enumerate(curves.items()):
        colour, symbol = theme.series_style(k)
        fig.add_trace(
            go.Scatter(
                x=list(depth.labels),
                y=theme.array(values).mean(0),
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
