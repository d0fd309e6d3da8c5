"""One figure for many methods and probes: what each brings back beyond the retrain model."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from unpact_lens.plots import theme
from unpact_lens.recovery.result import without_controls


def method_by_probe(frame: pd.DataFrame, *, title: str = "What comes back, beyond the retrain model") -> go.Figure:
    """A map of method × probe, controls left out; the colour is the excess, with its interval on hover.

    Args:
        frame: of `unpact_lens.study.probes_over_seeds`, with a column `variant` if there are several.
        title: of the figure.
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
    fig = theme.figure(title, "excess of each probe; undefined where no fact could be asked; 95% intervals on hover")
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


def spared_bars(frame: pd.DataFrame) -> go.Figure:
    """How many retain facts each method keeps that its baseline loses, with intervals.

    Args:
        frame: of `unpact_lens.study.destruction_over_seeds`; rows without a baseline are left out.
    """
    shown = frame[frame["spared"].notna()]
    fig = theme.figure(
        "Retain facts spared at matched forgetting", "positive: fewer lost than with the baseline; 95% intervals"
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
