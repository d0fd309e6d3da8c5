"""Draw the scores of one model as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from unpact_lens.evaluation import Scores


@finished
def scores_table(scores: Scores) -> go.Figure:
    """Draw a table of every metric on every group of facts: value with its 95% CI, beside the models compared.

    Args:
        scores: Scores of one model on one benchmark.
    """
    frame = scores.to_frame()
    interval = [
        f"{_number(v)} [{_number(low)}, {_number(high)}]" if pd.notna(low) else _number(v)
        for v, low, high in zip(frame["value"], frame["low"], frame["high"], strict=True)
    ]
    columns: dict[str, list[str]] = {
        "metric": [theme.escape(str(m)) for m in frame["metric"]],
        "group": [theme.escape(str(g)) for g in frame["group"]],
        "value [95% CI]": interval,
        **{name: [_number(v) for v in frame[name]] for name in ("before", "reference") if name in frame},
        "n": [str(n) for n in frame["n"]],
    }
    fig = theme.figure("Scores by metric and group", theme.escape(f"benchmark {scores.benchmark}"))
    fig.add_trace(
        go.Table(
            header={"values": [f"<b>{c}</b>" for c in columns], "align": "left", "fill_color": "#EEF2F5"},
            cells={"values": list(columns.values()), "align": "left", "fill_color": "#FFFFFF", "height": 26},
        )
    )
    fig.update_layout(height=150 + 26 * (len(frame) + 1), margin={"t": 80, "b": 16})
    return fig


def _number(value: float) -> str:
    """Format a number with three decimals, or a dash if it is undefined."""
    return "–" if pd.isna(value) else f"{value:.3f}"
