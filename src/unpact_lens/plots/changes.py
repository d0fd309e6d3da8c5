"""Draw why each head changed, and how far activations and weights moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_axes, head_heatmap, head_map_height
from unpact_lens.plots.figure import finished

HOOKS, TOKENS = 28, 40
"""Numbers of hooks and positions of a map of activations: those that moved most."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unpact_lens.comparison import ActivationChanges, HeadSplit, WeightChanges


@finished
def head_split(split: HeadSplit) -> go.Figure:
    """Draw Δ of each head's direct contribution and the share of each player, which sum to Δ, on one scale.

    The two parts of the pattern's share follow if it was split again. A noise baseline is a second row.
    """
    maps = _split_maps(split)
    rows = [maps] if split.floor is None else [maps, {f"{k}, baseline": v for k, v in _split_maps(split.floor).items()}]
    fig = make_subplots(
        len(rows),
        len(maps),
        shared_yaxes=True,
        subplot_titles=[title for row in rows for title in row],
        horizontal_spacing=0.02,
        vertical_spacing=0.2,
    )
    for row, facets in enumerate(rows, start=1):
        for column, values in enumerate(facets.values(), start=1):
            fig.add_trace(head_heatmap(values), row=row, col=column)
    theme.dress(
        fig,
        "Why each head changed",
        theme.escape(
            f"Shapley shares of Δ [logits] of “{theme.short(split.answer.strip())}”, mean over its tokens: where "
            "it looks, what it reads, its weights, how it is read out"
        ),
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit([v for row in rows for v in row.values()]), "logits"),
        height=head_map_height(maps["Δ"]) * len(rows) + 24,
    )
    head_axes(fig, maps["Δ"])
    if len(rows) > 1:  # the titles of the lower maps take the place of the upper axis titles
        fig.update_xaxes(title=None, row=1)
    return fig


def _split_maps(split: HeadSplit) -> dict[str, NDArray[np.float64]]:
    """Compute Δ, each player and each part of the pattern, `[layer, head]`, mean over the answer tokens."""
    maps = {"Δ": theme.array(split.delta).mean(-1)}
    maps |= {player: theme.array(v).mean(-1) for player, v in zip(split.players, split.values, strict=True)}
    if split.pattern_parts is not None:
        parts = zip(("QK weights", "QK input"), split.pattern_parts, strict=True)
        maps |= {name: theme.array(v).mean(-1) for name, v in parts}
    return maps


@finished
def activation_changes(changes: ActivationChanges) -> go.Figure:
    """Draw KL of the next-token distributions at each position, and below it ‖Δ‖ / ‖before‖, hook × position.

    Hovering shows the cosine of before and after, and CKA. A noise baseline is to the right, on the same scales.
    """
    sides = {"before against after": changes}
    if changes.floor is not None:
        sides["noise baseline"] = changes.floor
    fig = make_subplots(
        2,
        len(sides),
        row_heights=[0.25, 0.75],
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.04,
        horizontal_spacing=0.04,
        column_titles=list(sides) if len(sides) > 1 else None,
    )
    relative = theme.array(changes.relative)  # [hook, position]
    hooks, fewer = theme.strongest(relative, HOOKS)
    places, some = theme.strongest(np.column_stack([theme.array(changes.kl), relative.T]), TOKENS)
    tokens = [theme.token_labels(changes.tokens)[k] for k in places]
    for column, side in enumerate(sides.values(), start=1):
        bars = go.Bar(
            x=tokens,
            y=theme.array(side.kl)[places],
            marker={"color": theme.PALETTE[0]},
            hovertemplate="%{x}<br>KL(before ‖ after) %{y:.4f} nats<extra></extra>",
        )
        fig.add_trace(bars, row=1, col=column)
        cka = np.broadcast_to(theme.array(side.cka)[:, None], side.cosine.shape)
        fig.add_trace(
            go.Heatmap(
                z=theme.array(side.relative)[np.ix_(hooks, places)],
                x=tokens,
                y=[theme.escape(side.hooks[k]) for k in hooks],
                customdata=np.stack([theme.array(side.cosine), cka], axis=-1)[np.ix_(hooks, places)],
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
                hovertemplate="%{y}, %{x}<br>relative %{z:.3f}<br>cosine %{customdata[0]:.3f}, "
                "CKA of the hook %{customdata[1]:.3f}<extra></extra>",
            ),
            row=2,
            col=column,
        )
    limit = theme.symmetric_limit([side.relative for side in sides.values()])
    bar = {"title": {"text": "‖Δ‖ / ‖before‖", "side": "top"}, "thickness": 12, "outlinewidth": 0}
    theme.dress(
        fig,
        "How far predictions and activations moved",
        theme.escape(
            f"at each position, prompt and answer “{theme.short(changes.answer.strip())}”"
            + (f"; the {len(hooks)} hooks of {len(changes.hooks)} that moved most" if fewer else "")
            + (f"; the {len(places)} positions of {len(changes.tokens)} that moved most" if some else "")
        ),
        height=320 + 20 * len(hooks),
        showlegend=False,
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "cmin": 0,
            "cmax": limit,
            "colorbar": {**bar, "len": 0.7, "y": 0.35},
        },
    )
    theme.token_axis(fig, tokens, len(sides))
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False, row=2)
    fig.update_yaxes(title="KL, nats", row=1, col=1)
    return fig


@finished
def weight_changes(changes: WeightChanges, *, top: int = 40) -> go.Figure:
    """Draw the relative change of each weight, `‖Δ‖ / ‖before‖` in the Frobenius norm, the largest first.

    Args:
        changes: Changes with one entry per weight.
        top: Number of weights to show.
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
    if changes.floor is not None:
        names = [theme.escape(changes.names[i]) for i in order]
        fig.add_trace(theme.floor_marks(theme.array(changes.floor.relative)[order], names))
        fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    fig.update_traces(showlegend=False, selector={"type": "bar"})
    fig.update_xaxes(title="‖Δ‖ / ‖before‖", rangemode="tozero")
    fig.update_yaxes(type="category", autorange="reversed")
    fig.update_layout(height=200 + 18 * len(order))
    return fig
