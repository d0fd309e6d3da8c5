"""Draw destruction: against the share of penalised tokens, along training, and compared with a baseline."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

PICKS = {"key": "those that depend most on the KeyTokens", "chance": "any tokens"}
FORGOTTEN = 0.9
"""Runs with a smaller F are drawn with hollow marks."""


@finished
def destruction_by_share(frame: pd.DataFrame) -> go.Figure:
    """Draw D against the share of penalised answer tokens: one panel per loss, one line per way to pick tokens.

    Args:
        frame: Table of `destruction_over_seeds`, with columns `loss`, `share` and `pick`. Rows with share 1 end both
            lines.
    """
    losses = list(dict.fromkeys(frame["loss"]))
    fig = make_subplots(rows=1, cols=len(losses), shared_yaxes=True, subplot_titles=[theme.escape(x) for x in losses])
    theme.dress(fig, "Destruction by share of penalised tokens", "near facts, 95% CIs; hollow: forgot less than 90%")
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


@finished
def frontier(frame: pd.DataFrame) -> go.Figure:
    """Draw the share of near facts lost against F along training, one line per method.

    Args:
        frame: Columns `method, step, F, D_near`, in the order of training.
    """
    fig = theme.figure("Near facts lost along training", "share of near facts lost against F; one mark per evaluation")
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
    fig.update_xaxes(title="F: share of forget facts lost", range=[-0.03, 1.03])
    fig.update_yaxes(title="share of near facts lost", range=[-0.03, 1.03])
    fig.update_layout(height=460, width=620)
    return fig


@finished
def spared_bars(frame: pd.DataFrame) -> go.Figure:
    """Draw the share of retain facts that each method spares compared with its baseline, with 95% CIs.

    Args:
        frame: Table of `destruction_over_seeds`; rows without a baseline are excluded.
    """
    shown = frame[frame["spared"].notna()]
    fig = theme.figure(
        "Retain facts spared at matched forgetting", "positive: fewer lost than with the baseline; 95% CIs"
    )
    fig.add_trace(
        go.Scatter(
            x=shown["spared"],
            y=[theme.escape(f"{m} against {b}") for m, b in zip(shown["method"], shown["against"], strict=True)],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": shown["spared_high"] - shown["spared"],
                "arrayminus": shown["spared"] - shown["spared_low"],
            },
            mode="markers",
            marker={"color": theme.PALETTE[0], "size": 10},
        )
    )
    fig.add_vline(x=0, line={"color": theme.MUTED})
    fig.update_layout(height=220 + 30 * len(shown), showlegend=False, margin={"l": 320})
    fig.update_xaxes(title="share of retain facts")
    fig.update_yaxes(autorange="reversed")
    return fig
