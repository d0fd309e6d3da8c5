"""What is destroyed as more of each answer is penalised, and as more is forgotten."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme

PICKS = {"key": "those that depend most on the KeyTokens", "chance": "any tokens"}
FORGOTTEN = 0.9
"""From here on a run counts as having forgotten; below it, a hollow mark."""


def destruction_by_share(frame: pd.DataFrame) -> go.Figure:
    """One panel a loss: D against the share of each answer's tokens that is penalised, one line for each way to pick.

    Args:
        frame: of `unpact_lens.study.destruction_over_seeds`, with columns `loss`, `share` and `pick`. All tokens
            (share 1) need no pick, and end both lines.
    """
    losses = list(dict.fromkeys(frame["loss"]))
    fig = make_subplots(rows=1, cols=len(losses), shared_yaxes=True, subplot_titles=[theme.escape(x) for x in losses])
    theme.dress(fig, "Destruction as more is penalised", "near facts, 95% intervals; hollow: forgot less than 90%")
    for column, loss in enumerate(losses, start=1):
        for color, (pick, label) in zip(theme.PALETTE, PICKS.items(), strict=False):
            shown = frame[(frame["loss"] == loss) & ((frame["pick"] == pick) | (frame["share"] == 1))]
            shown = shown.sort_values("share")
            filled = ["circle" if f >= FORGOTTEN else "circle-open" for f in shown["F"]]
            fig.add_trace(
                go.Scatter(
                    x=shown["share"],
                    y=shown["D_near"],
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": shown["D_near_high"] - shown["D_near"],
                        "arrayminus": shown["D_near"] - shown["D_near_low"],
                    },
                    customdata=shown[["F"]],
                    hovertemplate="share %{x}<br>D near %{y:.2f}<br>F %{customdata[0]:.2f}<extra></extra>",
                    mode="lines+markers",
                    name=label,
                    legendgroup=pick,
                    showlegend=column == 1,
                    line={"color": color},
                    marker={"symbol": filled, "size": 10},
                ),
                row=1,
                col=column,
            )
    fig.update_xaxes(title="share penalised", range=[0, 1.05])
    fig.update_yaxes(title="share of near facts lost", range=[-0.05, 1.05], col=1)
    fig.update_layout(height=420, width=180 + 230 * len(losses), legend={"orientation": "h", "y": -0.3})
    return fig


def frontier(frame: pd.DataFrame) -> go.Figure:
    """One line a method: what of the near facts is gone as more of the forget facts goes, along training.

    Args:
        frame: columns `method, step, F, D_near`, in the order of training.
    """
    fig = theme.figure(
        "What goes with it", "share of near facts lost as more is forgotten; one mark a look, in training"
    )
    for i, (method, shown) in enumerate(frame.groupby("method", sort=False)):
        color, symbol = theme.series_style(i)
        fig.add_trace(
            go.Scatter(
                x=shown["F"],
                y=shown["D_near"],
                customdata=shown[["step"]],
                hovertemplate="step %{customdata[0]}<br>F %{x:.2f}<br>D near %{y:.2f}<extra></extra>",
                mode="lines+markers",
                name=theme.escape(str(method)),
                line={"color": color},
                marker={"symbol": symbol, "size": 9},
            )
        )
    fig.update_xaxes(title="F: share of forget facts gone", range=[-0.03, 1.03])
    fig.update_yaxes(title="share of near facts gone", range=[-0.03, 1.03])
    fig.update_layout(height=460, width=620)
    return fig
