"""Plot what can be recovered against what was destroyed, with one marker for each method."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

NEEDED = (
    "method",
    "seed",
    "F",
    "excess",
    "excess_low",
    "excess_high",
    "excess_probe",
    "D",
    "D_low",
    "D_high",
    "verdict",
)


@runtime_checkable
class StudyLike(Protocol):
    """Part of a study that the plot needs."""

    # ruff: noqa: D102
    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def control(self) -> Any: ...

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each method and seed, with the columns `NEEDED`."""


@finished
def dilemma_plane(study: StudyLike) -> go.Figure:
    r"""Plot the largest excess of any probe (x) against the destruction D of unseen facts (y).

    The shaded square $[0, \epsilon]^2$ is where unlearning is reliable, provided that the facts were forgotten. Markers
    are hollow where F < 1 − ε. A marker whose excess is undefined is in a separate strip at the right. A method without
    D has no marker and is named under the title. A small mark shows D_trained, of facts that the method may have
    rehearsed, on a dotted line to D.

    Args:
        study: Finished study.
    """
    frame = study.to_frame()
    epsilon = float(study.config.get("epsilon", 0.1))
    drawn = frame[frame["D"].notna()]
    undefined = drawn["excess"].isna()
    fig = make_subplots(
        1,
        2 if undefined.any() else 1,
        shared_yaxes=True,
        column_widths=[0.86, 0.14] if undefined.any() else None,
        horizontal_spacing=0.02,
    )
    methods = list(dict.fromkeys(frame["method"]))
    left = min(-0.06, float(drawn["excess_low"].min(skipna=True)) - 0.03 if drawn["excess_low"].notna().any() else 0.0)
    fig.add_shape(
        type="rect", x0=left, x1=epsilon, y0=-0.06, y1=epsilon, layer="below", line={"width": 0},
        fillcolor="rgba(0,158,115,0.14)", row=1, col=1,
    )  # fmt: skip
    fig.add_annotation(
        x=epsilon / 2, y=-0.05, text="reliable", showarrow=False, yanchor="bottom", font={"color": theme.PALETTE[2]},
        row=1, col=1,
    )  # fmt: skip
    several = bool(frame["method"].duplicated().any())
    for _, row in drawn.iterrows():
        _marker(fig, row, methods.index(row["method"]), epsilon, several_seeds=several)
    _trained(fig, drawn, methods)
    _reference(fig, study.control)
    missing = ", ".join(frame.loc[frame["D"].isna(), "method"])
    subtitle = (
        f"filled: F ≥ {1 - epsilon:g}, hollow: less was forgotten; bars: 95% intervals; shaded: both ≤ {epsilon:g}"
    )
    if missing:
        subtitle += f"; no destruction measured for {missing}"
    theme.dress(fig, "What can be brought back, and what was destroyed", theme.escape(subtitle), height=560)
    fig.update_layout(showlegend=True, legend={"x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"})
    top = max(0.3, 1.1 * float(drawn["D_high"].max())) if len(drawn) else 1.06
    right = max(0.3, 1.1 * float(drawn["excess_high"].max())) if drawn["excess_high"].notna().any() else 1.06
    fig.update_yaxes(title="destruction D: unseen facts to be kept that were lost", range=[-0.06, top], row=1, col=1)
    fig.update_xaxes(title="largest excess recovery of any probe over its control", range=[left, right], row=1, col=1)
    if undefined.any():
        fig.update_xaxes(title="undefined", tickvals=[], showgrid=False, zeroline=False, range=[-1, 1], row=1, col=2)
    return fig


def _marker(fig: go.Figure, row: pd.Series, method: int, epsilon: float, *, several_seeds: bool) -> None:
    """Draw one method (and seed) with the intervals of both coordinates."""
    colour, symbol = theme.series_style(method)
    name = theme.escape(f"{row['method']} · {row['seed']}" if several_seeds else str(row["method"]))
    defined = not math.isnan(row["excess"])
    x = row["excess"] if defined else -0.6
    where = (
        f"excess {row['excess']:.2f} by {theme.escape(str(row['excess_probe']))}" if defined else "no excess defined"
    )
    fig.add_trace(
        go.Scatter(
            x=[x],
            y=[row["D"]],
            name=name,
            mode="markers",
            marker={
                "color": colour,
                "symbol": symbol if row["F"] >= 1 - epsilon else f"{symbol}-open",
                "size": 13,
                "line": {"width": 2, "color": colour},
            },
            error_x=_whiskers(row, "excess", colour) if defined else None,
            error_y=_whiskers(row, "D", colour),
            cliponaxis=False,
            hovertemplate=f"<b>{name}</b><br>F {row['F']:.2f}<br>D {row['D']:.2f}{_beside(row)}<br>{where}<br>"
            f"{theme.escape(str(row['verdict']))}<extra></extra>",
        ),
        row=1,
        col=1 if defined else 2,
    )


def _beside(row: pd.Series) -> str:
    """Return the destruction of trained facts, for the label of a marker; empty if it was not measured."""
    return f" (D_trained {row['D_trained']:.2f})" if pd.notna(row.get("D_trained")) else ""


def _trained(fig: go.Figure, drawn: pd.DataFrame, methods: list[str]) -> None:
    """Draw the destruction of trained facts of every method, each on a dotted line to its marker."""
    rows = drawn[drawn["D_trained"].notna() & drawn["excess"].notna()] if "D_trained" in drawn else drawn.iloc[:0]
    if rows.empty:
        return
    colours = [theme.series_style(methods.index(m))[0] for m in rows["method"]]
    for colour, (_, row) in zip(colours, rows.iterrows(), strict=True):
        ends = {"x0": row["excess"], "x1": row["excess"], "y0": row["D_trained"], "y1": row["D"]}
        fig.add_shape(
            type="line", line={"width": 1, "dash": "dot", "color": colour}, layer="below", row=1, col=1, **ends
        )
    fig.add_trace(
        go.Scatter(
            x=rows["excess"].tolist(),
            y=rows["D_trained"].tolist(),
            name="D of trained facts",
            mode="markers",
            marker={"symbol": "line-ew", "size": 9, "line": {"width": 2, "color": colours}},
            cliponaxis=False,
            hovertemplate="D_trained %{y:.2f}<extra>%{text}</extra>",
            text=[theme.escape(str(m)) for m in rows["method"]],
        ),
        row=1,
        col=1,
    )


def _whiskers(row: pd.Series, name: str, colour: str) -> dict[str, Any]:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return {
        "type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low], "color": colour,
        "thickness": 1, "width": 4,
    }  # fmt: skip


def _reference(fig: go.Figure, control: Any) -> None:
    """Draw the retrained model: excess 0 by definition, at the share of retain facts that it misses."""
    if control is None or control.values_before is None:
        return
    fig.add_trace(
        go.Scatter(
            x=[0.0],
            y=[control.destruction.value],
            name="retrain",
            mode="markers",
            marker={"symbol": "x-thin", "size": 12, "line": {"width": 2, "color": theme.INK}},
            cliponaxis=False,
            hovertemplate="<b>retrained model</b><br>D %{y:.2f}<br>excess 0 by definition<extra></extra>",
        ),
        row=1,
        col=1,
    )
