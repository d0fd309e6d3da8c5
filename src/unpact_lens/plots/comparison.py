"""Two models on one question, drawn: component by component, head by head, weight by weight, patch by patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import component_bars, head_axes, head_heatmap, head_map_height, head_values

if TYPE_CHECKING:
    from unpact_lens.comparison.result import ActivationChanges, HeadSplit, ModelDiff, PatchingMap, WeightChanges


def model_diff(diff: ModelDiff) -> go.Figure:
    """Waterfalls of the logit before and after, and under them Δ of each component; they sum to Δ logit.

    Args:
        diff: one question, two models. Values are means over the answer tokens.
    """
    labels, before = component_bars(diff.components_before)
    _, after = component_bars(diff.components_after)
    delta = np.subtract(after, before)
    fig = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.06)
    for k, (name, values) in enumerate({"before": before, "after": after}.items()):
        fig.add_trace(
            go.Waterfall(
                name=name,
                offsetgroup=name,
                x=[*labels, "logit"],
                y=[*values, sum(values)],
                measure=["relative"] * len(values) + ["total"],
                **{part: {"marker": {"color": theme.PALETTE[k]}} for part in ("increasing", "decreasing", "totals")},
                connector={"visible": False},
                hovertemplate=f"%{{x}} {name}<br>%{{delta:+.3f}} logits, then %{{final:.3f}}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    deltas = [*delta.tolist(), float(delta.sum())]
    fig.add_trace(
        go.Bar(
            name="Δ",
            x=[*labels, "logit"],
            y=deltas,
            showlegend=False,
            offset=-0.35,
            width=0.7,
            marker={"color": deltas, "coloraxis": "coloraxis", "line": {"color": theme.MUTED, "width": 0.5}},
            hovertemplate="%{x}<br>Δ %{y:+.3f} logits<extra></extra>",
        ),
        row=2,
        col=1,
    )
    theme.dress(fig, "Which components moved the answer's logit", _diff_line(diff), height=640)
    fig.update_layout(
        coloraxis={**theme.diverging_axis(theme.symmetric_limit([deltas]), "logits"), "showscale": False},
        waterfallmode="group",
        waterfallgap=0.25,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
    )
    fig.update_yaxes(title="logits, cumulative", row=1, col=1)
    fig.update_yaxes(title="Δ logits", row=2, col=1)
    fig.update_xaxes(type="category", tickangle=-60)
    return fig


def head_triptych(diff: ModelDiff) -> go.Figure:
    """Direct contribution of each head before | after | Δ, layer × head, on one symmetric scale."""
    before, after = head_values(diff.heads_before), head_values(diff.heads_after)
    maps = {"before": before, "after": after, "Δ": after - before}
    fig = make_subplots(1, 3, shared_yaxes=True, subplot_titles=list(maps), horizontal_spacing=0.04)
    for column, values in enumerate(maps.values(), start=1):
        fig.add_trace(head_heatmap(values), row=1, col=column)
    theme.dress(fig, "Direct contribution of each head, before and after", _diff_line(diff))
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit(maps.values()), "logits"),
        height=head_map_height(before) + 24,
    )
    head_axes(fig, before)
    return fig


def head_split(split: HeadSplit) -> go.Figure:
    """Why each head's part in the logit changed: its Δ, and the share of each player; they sum to Δ. One scale."""
    maps = {"Δ": theme.array(split.delta).mean(-1)}
    maps |= {player: theme.array(v).mean(-1) for player, v in zip(split.players, split.values, strict=True)}
    fig = make_subplots(1, len(maps), shared_yaxes=True, subplot_titles=list(maps), horizontal_spacing=0.02)
    for column, values in enumerate(maps.values(), start=1):
        fig.add_trace(head_heatmap(values), row=1, col=column)
    theme.dress(
        fig,
        "Why each head changed",
        theme.escape(
            f"Shapley shares of Δ [logits] of “{theme.short(split.answer.strip())}”, mean over its tokens: where "
            "it looks, what it reads, its weights, how it is read out"
        ),
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit(maps.values()), "logits"),
        height=head_map_height(maps["Δ"]) + 24,
    )
    head_axes(fig, maps["Δ"])
    return fig


def activation_changes(changes: ActivationChanges) -> go.Figure:
    """Length of Δ over the length before, hook by position; hover gives the cosine of before and after."""
    relative = theme.array(changes.relative)
    fig = theme.figure(
        "How far the activations moved",
        theme.escape(f"‖Δ‖ / ‖before‖ at each position, prompt and answer “{theme.short(changes.answer.strip())}”"),
    )
    fig.add_trace(
        go.Heatmap(
            z=relative,
            x=theme.token_labels(changes.tokens),
            y=[theme.escape(hook) for hook in changes.hooks],
            customdata=theme.array(changes.cosine),
            colorscale=theme.SEQUENTIAL,
            zmin=0,
            colorbar={"title": {"text": "relative", "side": "right"}, "thickness": 12, "outlinewidth": 0},
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}<br>relative %{z:.3f}<br>cosine %{customdata:.3f}<extra></extra>",
        )
    )
    fig.update_layout(height=220 + 20 * len(changes.hooks))
    fig.update_xaxes(type="category", tickangle=-45, showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


def weight_changes(changes: WeightChanges, *, top: int = 40) -> go.Figure:
    """Relative change of each weight, `‖Δ‖ / ‖before‖` in the Frobenius norm, the largest first.

    Args:
        changes: one entry a weight.
        top: how many to show.
    """
    relative = theme.array(changes.relative)
    order = np.argsort(-np.nan_to_num(relative, nan=-1.0), kind="stable")[:top]
    fig = theme.figure("Which weights changed most", "relative change, Frobenius norm of Δ over that of before")
    fig.add_trace(
        go.Bar(
            x=relative[order],
            y=[theme.escape(changes.names[i]) for i in order],
            orientation="h",
            marker={"color": theme.PALETTE[0]},
            customdata=np.column_stack(
                [theme.array(v)[order] for v in (changes.norm_delta, changes.spectral, changes.effective_rank)]
            ),
            hovertemplate="%{y}<br>relative %{x:.4g}<br>‖Δ‖ %{customdata[0]:.4g}, spectral %{customdata[1]:.4g}, "
            "effective rank %{customdata[2]:.2f}<extra></extra>",
        )
    )
    fig.update_xaxes(title="‖Δ‖ / ‖before‖", rangemode="tozero")
    fig.update_yaxes(type="category", autorange="reversed")
    fig.update_layout(height=200 + 18 * len(order))
    return fig


def patching_map(patching: PatchingMap) -> go.Figure:
    """Change of the answer's mean log-probability by each patch; hover gives the share of the gap that it closes."""
    values = theme.array(patching.values)
    rows, columns = patching.labels
    fig = theme.figure(
        f"Patching {theme.escape(patching.what)}, {theme.escape(patching.direction.replace('_', ' '))}",
        theme.escape(
            f"change of the mean log-probability of “{theme.short(patching.answer.strip())}” [nats], "
            f"{patching.method}; unpatched {patching.baseline:.2f}, the other model {patching.donor:.2f}"
        ),
    )
    fig.add_trace(
        go.Heatmap(
            z=values,
            x=[theme.escape(theme.visible(c)) for c in columns],
            y=[theme.escape(r) for r in rows],
            customdata=theme.array(patching.restored),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}<br>%{z:+.3f} nats, %{customdata:.0%} of the gap<extra></extra>",
        )
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit([values]), "nats"), height=head_map_height(values)
    )
    fig.update_xaxes(type="category", tickangle=-45, showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False, title="layer")
    return fig


def _diff_line(diff: ModelDiff) -> str:
    """Δ logit − Δ logsumexp = Δ log-prob in numbers, for a subtitle."""
    logit, normaliser, log_prob = (
        float(theme.array(v).mean()) for v in (diff.delta_logit, diff.delta_logsumexp, diff.delta_log_prob)
    )
    return theme.escape(
        f"answer “{theme.short(diff.answer.strip())}”, mean over its tokens: Δ logit {logit:+.2f} logits, "
        f"Δ logsumexp {normaliser:+.2f}, Δ log-prob {log_prob:+.2f} nats"
    )
