"""Draw finding 1 with its controls: focus by model and group of facts, along training, and by head."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

PANELS = (
    ("overlap", "overlap of the KeyTokens"),
    ("mass_shift", "mass shift of the KeyTokens"),
    ("share_key", "share of the loss through them"),
)
"""Measure and title of each panel of intervals."""

RANDOM = {"mass_shift": "mass_shift_random", "share_key": "share_random"}
"""Measure of random tokens that is drawn with hollow marks beside each measure."""

GROUPS = {"forget": "forget facts", "paraphrase": "held-out paraphrases", "retain": "retain facts"}
"""Groups of facts and their names in the legend."""


@finished
def focus_controls(frame: pd.DataFrame, trajectory: pd.DataFrame) -> go.Figure:
    """Draw the focus of all models in one figure.

    Args:
        frame: Table of `focus_over_seeds`.
        trajectory: Table of `FocusStudy.trajectory_frame`, with columns `method, seed, step, measure, mean`.
    """
    models = list(dict.fromkeys(frame["model"]))
    heads = [h for h in dict.fromkeys(frame["head"]) if h]
    titles = [title for _, title in PANELS]
    titles += [
        "KeyToken overlap along training (forget facts)",
        "Δ moved from the KeyTokens by head, logits",
    ]
    fig = make_subplots(
        2, 6, specs=[[{"colspan": 2}, None] * 3, [{"colspan": 3}, None, None, {"colspan": 3}, None, None]],
        subplot_titles=[theme.escape(t) for t in titles], vertical_spacing=0.2, horizontal_spacing=0.11,
    )  # fmt: skip
    for k, (measure, _) in enumerate(PANELS):
        for g, group in enumerate(GROUPS):
            shown = frame[(frame["group"] == group) & (frame["head"] == "")]
            for name, hollow in ((measure, False), (RANDOM.get(measure), True)):
                if name is None:
                    continue
                rows = shown[shown["measure"] == name].set_index("model").reindex(models)
                fig.add_trace(
                    _dots(rows, models, g, group, hollow=hollow, legend=k == 0 and not hollow), row=1, col=2 * k + 1
                )
        fig.update_yaxes(
            tickvals=list(range(len(models))), ticktext=[theme.escape(m) for m in models], autorange="reversed",
            zeroline=False, row=1, col=2 * k + 1,
        )  # fmt: skip
        if measure != "overlap":
            fig.add_vline(x=0, line={"color": theme.MUTED}, row=1, col=2 * k + 1)
    for m, method in enumerate(dict.fromkeys(trajectory["method"])):
        _paths(fig, trajectory[(trajectory["method"] == method) & (trajectory["measure"] == "overlap")], m, method)
    fig.update_xaxes(title="step", row=2, col=1)
    fig.add_trace(_head_map(frame, models, heads), row=2, col=4)
    fig.update_yaxes(autorange="reversed", row=2, col=4)
    theme.dress(
        fig,
        "Focus of the unlearned models and of the controls",
        "means over facts and seeds, 95% CIs; hollow: random tokens",
    )
    fig.update_layout(height=420 + 44 * len(models), width=1240, legend={"x": 1.02, "y": 1, "xanchor": "left"})
    return fig


def _dots(
    rows: pd.DataFrame, models: Sequence[str], group: int, name: str, *, hollow: bool, legend: bool
) -> go.Scatter:
    colour, symbol = theme.series_style(group)
    return go.Scatter(
        x=rows["mean"],
        y=[i + 0.22 * (group - 1) for i in range(len(models))],
        error_x={
            "type": "data", "symmetric": False, "array": rows["high"] - rows["mean"],
            "arrayminus": rows["mean"] - rows["low"], "color": colour, "thickness": 1, "width": 3,
        },
        mode="markers",
        name=GROUPS[name],
        legendgroup=name,
        showlegend=legend,
        marker={"color": colour, "symbol": f"{symbol}-open" if hollow else symbol, "size": 8},
        customdata=[[theme.escape(m), "random tokens" if hollow else "KeyTokens"] for m in models],
        hovertemplate=f"%{{customdata[0]}}, {name}<br>%{{customdata[1]}} %{{x:.3f}}<extra></extra>",
    )  # fmt: skip


def _paths(fig: go.Figure, rows: pd.DataFrame, index: int, method: str) -> None:
    """Draw one thin line per seed."""
    colour, _ = theme.series_style(index + len(GROUPS))
    for i, seed in enumerate(dict.fromkeys(rows["seed"])):
        of = rows[rows["seed"] == seed]
        fig.add_trace(
            go.Scatter(
                x=of["step"], y=of["mean"], mode="lines+markers", marker={"size": 4},
                line={"color": colour, "width": 1.5},
                name=theme.escape(method), legendgroup=method, showlegend=i == 0,
                hovertemplate=f"{theme.escape(method)}, seed {seed}<br>step %{{x}}: %{{y:.2f}}<extra></extra>",
            ),
            row=2, col=1,
        )  # fmt: skip


def _head_map(frame: pd.DataFrame, models: Sequence[str], heads: Sequence[str]) -> go.Heatmap:
    rows = frame[(frame["group"] == "forget") & (frame["measure"] == "moves_shift") & (frame["head"] != "")]
    table = rows.pivot(index="model", columns="head", values="mean").reindex(index=list(models), columns=list(heads))
    limit = theme.symmetric_limit([table])
    return go.Heatmap(
        z=table.to_numpy(), x=list(heads), y=[theme.escape(m) for m in models], zmin=-limit, zmax=limit,
        colorscale=theme.DIVERGING, texttemplate="%{z:.2f}",
        colorbar={"title": "logits", "len": 0.4, "y": 0.2, "x": 1.0},
        hovertemplate="%{y}, %{x}: %{z:.2f}<extra></extra>",
    )  # fmt: skip
