"""Draw destruction of trained and of unseen facts by the number of trained subjects."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

LINES = {"D": "unseen facts", "D_trained": "trained facts"}


@finished
def curve_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw near facts on the left and far facts on the right, one colour for each method, with 95% CIs.

    Args:
        frame: Table of `retention_curve`.
    """
    fig = make_subplots(1, 2, shared_yaxes=True, subplot_titles=["near facts", "far facts"], horizontal_spacing=0.05)
    for k, (method, rows) in enumerate(frame.groupby("method", sort=False)):
        colour, symbol = theme.series_style(k)
        for line, title in LINES.items():
            for column, group in enumerate(("near", "far"), start=1):
                name = f"{line}_{group}"
                fig.add_trace(
                    go.Scatter(
                        x=rows["subjects"].tolist(),
                        y=rows[name].tolist(),
                        name=f"{theme.escape(str(method))}, {title}",
                        legendgroup=f"{method} {line}",
                        showlegend=column == 1,
                        mode="lines+markers",
                        line={"color": colour, "dash": "solid" if line == "D" else "dot"},
                        marker={"symbol": symbol if line == "D" else f"{symbol}-open", "size": 8},
                        error_y={
                            "type": "data",
                            "symmetric": False,
                            "array": (rows[f"{name}_high"] - rows[name]).tolist(),
                            "arrayminus": (rows[name] - rows[f"{name}_low"]).tolist(),
                            "thickness": 1,
                            "width": 3,
                        },
                        cliponaxis=False,
                    ),
                    row=1,
                    col=column,
                )
    theme.dress(
        fig,
        "Rehearsed facts are kept, others are lost",
        "solid: subjects that the retain term never saw; dotted: subjects that it trained on; bars: 95% CIs",
        height=480,
    )
    fig.update_layout(showlegend=True, legend={"x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"})
    fig.update_xaxes(title="number of trained retain subjects", rangemode="tozero")
    fig.update_yaxes(title="share of known facts lost", range=[-0.03, 1.03], row=1, col=1)
    return fig
