"""Draw the AUC of every score with its interval."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

KINDS = {"metric": "metric", "probe": "probe", "": "verdict and UDS"}


@finished
def faithfulness_figure(results: pd.DataFrame) -> go.Figure:
    """Draw one row for each score, the most faithful one on top, with a colour for metrics, probes and the others.

    Args:
        results: Table of `MetaEvaluation.to_frame`.
    """
    rows = results[results["auc"].notna()].iloc[::-1]
    kinds = [str(s).split(":")[0] if ":" in str(s) else "" for s in rows["score"]]
    fig = go.Figure()
    for k, (kind, title) in enumerate(KINDS.items()):
        part = rows[[found == kind for found in kinds]]
        colour, symbol = theme.series_style(k)
        fig.add_trace(
            go.Scatter(
                x=part["auc"].tolist(),
                y=[theme.escape(str(s).split(":")[-1]) for s in part["score"]],
                name=title,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (part["auc_high"] - part["auc"]).tolist(),
                    "arrayminus": (part["auc"] - part["auc_low"]).tolist(),
                    "thickness": 1,
                    "width": 3,
                },
            )
        )
    theme.dress(
        fig,
        "Which scores tell models that know from models that never knew?",
        "AUC of knows or hides against never knew; bars: 95% CIs over training seeds and models; dashed: chance",
        height=160 + 17 * len(rows),
    )
    order = [theme.escape(str(s).split(":")[-1]) for s in rows["score"]]
    fig.update_yaxes(categoryorder="array", categoryarray=order)
    fig.update_xaxes(title="AUC", range=[0, 1.03])
    fig.add_vline(x=0.5, line_dash="dash", line_width=1)
    fig.update_layout(showlegend=True, legend={"x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"})
    return fig
