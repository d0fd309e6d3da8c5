"""Draw the excess of each method under each probe."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished
from unpact_lens.recovery.result import without_controls


@finished
def method_by_probe(frame: pd.DataFrame, *, title: str = "Excess over the retrained model") -> go.Figure:
    """Draw a map of method × probe; the colour is the excess, with its 95% CI on hover.

    Controls are excluded.

    Args:
        frame: Table of `unpact_lens.study.probes_over_seeds`, with a column `variant` if there are several.
        title: Title of the figure.
    """
    labels = frame["method"] + (" · " + frame["variant"] if "variant" in frame else "")
    shown = frame.assign(label=labels)
    probes, rows = without_controls(shown), list(dict.fromkeys(shown["label"]))

    def table(column: str) -> pd.DataFrame:
        return shown.pivot_table(index="label", columns="probe", values=column, sort=False).reindex(
            index=rows, columns=probes
        )

    value, low, high, n = (table(c) for c in ("excess", "excess_low", "excess_high", "n"))
    hover = [[f"{low.loc[r, p]:.2f} to {high.loc[r, p]:.2f}, n = {n.loc[r, p]:.0f}" for p in probes] for r in rows]
    fig = theme.figure(title, "excess of each probe; empty where no fact could be asked")
    fig.add_trace(
        go.Heatmap(
            z=value.to_numpy(),
            x=[theme.escape(theme.probe_name(p)) for p in probes],
            y=[theme.escape(r) for r in rows],
            customdata=hover,
            texttemplate="%{z:.2f}",
            hovertemplate="%{y}<br>%{x}<br>excess %{z:.2f} (%{customdata})<extra></extra>",
            colorscale="RdBu_r",
            zmid=0,
            zmin=-1,
            zmax=1,
            colorbar={"title": "excess"},
        )
    )
    fig.update_layout(height=220 + 30 * len(rows), width=max(860, 320 + 62 * len(probes)), margin={"l": 220, "b": 160})
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(tickangle=-45)
    return fig
