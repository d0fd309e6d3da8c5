"""Draw how completely each layer lost the answer, relative to a retrained model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from unpact_lens.comparison import UnlearningDepth


@finished
def unlearning_depth(depth: UnlearningDepth) -> go.Figure:
    """Draw the mean loss of the answer with each layer's state taken from the retrained and the unlearned model.

    Where the two curves meet, the unlearned model's states hold as little of the answer as the retrained model's. Bars
    are intervals over subjects. A noise baseline is a third curve: a model that differs by noise only.
    """
    ends = theme.array(depth.mean)
    interval = f" [{ends[1]:.2f}, {ends[2]:.2f}]" if np.isfinite(ends[1]) else ""
    noise = f", noise baseline {depth.floor.score:.2f}" if depth.floor is not None else ""
    fig = theme.figure(
        "How deep unlearning reaches",
        f"mean over {len(depth.ids)} items, {depth.level:.0%} intervals over subjects; UDS {depth.score:.2f}{interval}"
        f"{noise} (0: still there, 1: as deep as retraining)",
        height=420,
    )
    curves = {"retrained model's state (Δ1)": depth.layers[0], "unlearned model's state (Δ2)": depth.layers[1]}
    if depth.floor is not None:
        curves["noise baseline (Δ2)"] = depth.floor.layers[1]
    for k, (name, values) in enumerate(curves.items()):
        colour, symbol = (theme.MUTED, "diamond-open") if name.startswith("noise") else theme.series_style(k)
        table = theme.array(values)
        fig.add_trace(
            go.Scatter(
                x=list(depth.labels),
                y=table[:, 0],
                error_y={**theme.whiskers(table), "color": colour},
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
