"""Draw attention of the heads that changed most, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

TOKENS = 24
"""Number of tokens of a map: those whose attention moved most."""

if TYPE_CHECKING:
    from unpact_lens.comparison import AttentionPatterns


@finished
def attention_patterns(patterns: AttentionPatterns) -> go.Figure:
    """Draw attention of the chosen heads before | after | Δ, query downwards, key across; a menu picks the head.

    All heads and facets share one symmetric scale. A noise baseline is a second row. The upper triangle, which no
    causal head sees, is blank.
    """
    moved = theme.array(patterns.after) - theme.array(patterns.before)  # [head, query, key]
    kept, rest = theme.strongest(np.concatenate([moved.transpose(2, 0, 1), moved.transpose(1, 0, 2)], axis=2), TOKENS)
    labels = [theme.token_labels(patterns.tokens)[k] for k in kept]
    future = np.less.outer(kept, kept)
    names = ["L{}H{}".format(*head) for head in patterns.heads]
    rows = [patterns] if patterns.floor is None else [patterns, patterns.floor]
    titles = ["before", "after", "Δ"]
    if patterns.floor is not None:
        titles += [f"noise baseline: {title}" for title in ("first", "second", "Δ")]
    fig = make_subplots(
        len(rows), 3, shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.03, vertical_spacing=0.08,
        subplot_titles=titles,
    )  # fmt: skip
    for i, name in enumerate(names):
        for row, side in enumerate(rows, start=1):
            before, after = (
                np.where(future, np.nan, theme.array(p[i])[np.ix_(kept, kept)]) for p in (side.before, side.after)
            )
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
        theme.escape(
            f"attention weights; answer “{theme.short(patterns.answer.strip())}”"
            + (f"; the {len(kept)} tokens of {len(patterns.tokens)} whose attention moved most" if rest else "")
        ),
        height=320 + len(rows) * 18 * len(labels),
        margin={"t": 140},
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(1.0, "attention"),
        updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 28}}],
    )
    theme.token_axis(fig, labels, 3)
    fig.update_xaxes(title="key", row=len(rows))
    fig.update_yaxes(title="query", col=1)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig
