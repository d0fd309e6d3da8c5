"""Draw an unlearning run: loss terms, gradient norm, and the share of the forget set still known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.errors import InputError
from unpact_lens.plots import theme
from unpact_lens.plots.attribution import described, unit
from unpact_lens.plots.figure import Figure, finished

if TYPE_CHECKING:
    from unpact_lens.unlearning import History, Unlearned

PANELS = {
    "loss terms": ("loss", "forget", "retain"),
    "gradient norm, before clipping": ("grad_norm",),
    "share of facts still known": ("forget_score", "retain_score"),
}
"""Columns of a history by panel. A panel without any of its columns is left out."""


@finished
def history(result: Unlearned | History) -> Figure:
    """Draw loss terms, gradient norm and forget score by optimiser step, or by coefficient of a sweep.

    Args:
        result: Result of `unlearn`, or its history.
    """
    name, stopped = getattr(result, "method", ""), getattr(result, "stopped", "")
    return history_frame(result.to_frame(), name, stopped)


@finished
def trajectory(result: Unlearned | History, *, item: int = 0) -> go.Figure:
    """Draw the contributions of one tracked fact's prompt tokens during unlearning: tokens down, steps across.

    Args:
        result: Result of `unlearn`, or its history, with tracked facts.
        item: Index of the tracked fact.

    Raises:
        InputError: If no facts were tracked, or there is no fact of that index.
    """
    tracked = _history_of(result).trajectory
    steps = sorted(tracked, key=int)
    if not steps:
        raise InputError("this run tracked no facts; there is no trajectory to draw")
    if not 0 <= item < len(tracked[steps[0]]):
        raise InputError(f"item {item} of {len(tracked[steps[0]])} tracked facts; they are numbered from 0")
    points = [tracked[step][item] for step in steps]
    values = np.column_stack([theme.array(a.scores) for a in points])
    fig = theme.figure("Contributions while unlearning", described(points[0]))
    fig.add_trace(
        go.Heatmap(
            z=values,
            x=steps,
            y=theme.token_labels(points[0].tokens),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y} at step %{x}<br>%{z:+.3f}<extra></extra>",
        )
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit([values]), unit(points[0])), height=190 + 22 * len(values)
    )
    fig.update_xaxes(type="category", title="step", showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


FOCUS = {
    "agreement with the start": ("spearman", "overlap"),
    "share on the KeyTokens of the start": ("mass_after",),
    "entropy of |C| [nats]": ("entropy_after",),
    "contribution of the subject": ("subject_score_after",),
}
"""Measures of the trajectory of focus by panel."""


@finished
def focus_course(result: Unlearned | History) -> go.Figure:
    """Draw the model's focus on the tracked facts' prompts during unlearning: means over the facts, by step.

    Args:
        result: Result of `unlearn`, or its history, with tracked facts.

    Raises:
        InputError: If no facts were tracked.
    """
    tracked = _history_of(result)
    frame = tracked.focus()
    first = tracked.trajectory[min(tracked.trajectory, key=int)]
    titles = [t + f" [{unit(first[0])}]" * (t == "contribution of the subject") for t in FOCUS]
    fig = make_subplots(2, 2, subplot_titles=titles, horizontal_spacing=0.11, vertical_spacing=0.2)
    names = [m for measures in FOCUS.values() for m in measures]
    for place, measures in enumerate(FOCUS.values()):
        for measure in measures:
            rows = frame[frame.measure == measure]
            colour, symbol = theme.series_style(names.index(measure))
            fig.add_trace(
                go.Scatter(
                    x=rows.step,
                    y=rows["mean"],
                    error_y={
                        "type": "data",
                        "array": rows.high - rows["mean"],
                        "arrayminus": rows["mean"] - rows.low,
                        "color": colour,
                        "thickness": 1,
                    },
                    name=measure.removesuffix("_after").replace("_", " "),
                    mode="lines+markers",
                    line={"color": colour},
                    marker={"symbol": symbol, "size": 7},
                    hovertemplate="step %{x}<br>%{y:.3f}<extra>%{fullData.name}</extra>",
                ),
                row=place // 2 + 1,
                col=place % 2 + 1,
            )
    subtitle = f"{len(first)} tracked facts: mean with its 95% CI over subjects, compared with the first step"
    theme.dress(fig, "Focus while unlearning", theme.escape(subtitle), height=620)
    fig.update_xaxes(title="step", row=2)
    fig.update_layout(legend={"orientation": "h", "y": -0.14, "yanchor": "top"}, margin={"b": 90})
    return fig


def _history_of(result: Unlearned | History) -> History:
    """Return the history of a run, or the history given."""
    return getattr(result, "history", result)  # type: ignore[arg-type]


@finished
def history_frame(frame: pd.DataFrame, method: str = "", stopped: str = "") -> go.Figure:
    """Draw the figure of `history` from the table of a history.

    Args:
        frame: One row for each step or coefficient, with the columns of `History.rows`.
        method: Name of the method, for the title.
        stopped: Reason why training ended.
    """
    along = "coefficient" if "coefficient" in frame and frame["coefficient"].notna().any() else "step"
    panels = {
        title: present
        for title, columns in PANELS.items()
        if (present := [c for c in columns if c in frame and frame[c].notna().any()])
    }
    fig = make_subplots(1, max(len(panels), 1), subplot_titles=list(panels), horizontal_spacing=0.09)
    names = [column for columns in PANELS.values() for column in columns]
    for place, columns in enumerate(panels.values(), start=1):
        for column in columns:
            rows = frame[frame[column].notna()]
            colour, symbol = theme.series_style(names.index(column))
            fig.add_trace(
                go.Scatter(
                    x=rows[along],
                    y=rows[column],
                    name=column.replace("_", " "),
                    mode="lines+markers" if len(rows) <= 40 else "lines",
                    line={"color": colour},
                    marker={"symbol": symbol, "size": 6},
                    hovertemplate=f"{along} %{{x}}<br>%{{y:.4g}}<extra>%{{fullData.name}}</extra>",
                ),
                row=1,
                col=place,
            )
        if "forget_score" in columns:
            fig.update_yaxes(range=[-0.04, 1.04], row=1, col=place)
    title = f"Unlearning by {theme.escape(method)}" if method else "Unlearning, step by step"
    theme.dress(fig, title, theme.escape(stopped), height=420)
    fig.update_xaxes(title=along)
    fig.update_layout(legend={"orientation": "h", "y": -0.4, "yanchor": "top"}, margin={"b": 110})
    return fig
