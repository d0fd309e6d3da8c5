"""Draw two models on one question: components, heads, source tokens and contributions, before, after and Δ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.errors import InputError, nearest
from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import grouped_bars, head_axes, head_heatmap, head_map_height, head_values
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unpact_lens.comparison import ModelDiff


@finished
def model_diff(diff: ModelDiff, *, what: str = "components") -> go.Figure:
    """Draw what changed in the answer to one question; values are means over the answer tokens.

    Args:
        diff: One question answered by two models.
        what: `"components"` (waterfalls and Δ), `"heads"` (layer × head before | after | Δ), `"sources"` (head × source
            token before | after | Δ), or `"tokens"` (contributions of the prompt's tokens; also `"contributions"`).

    Raises:
        InputError: If `what` is unknown, or the diff was made without it.
    """
    views = {
        "components": component_waterfalls, "heads": head_triptych, "sources": source_triptych,
        "tokens": contributions, "contributions": contributions,
    }  # fmt: skip
    if what not in views:
        raise InputError(f"what={what!r}; {nearest(what, views)}")
    return views[what](diff)


@finished
def component_waterfalls(diff: ModelDiff) -> go.Figure:
    """Draw waterfalls of the logit before and after, and below them Δ of each component; they sum to Δ logit."""
    noisy = diff.floor is not None
    sides = [diff.components_before, diff.components_after]
    if diff.floor is not None:
        sides += [diff.floor.components_before, diff.floor.components_after]
    labels, (before, after, *noise) = grouped_bars(*sides)
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
    if noisy:
        moved = np.subtract(noise[1], noise[0])
        fig.add_trace(theme.floor_marks([*labels, "logit"], [*moved.tolist(), float(moved.sum())]), row=2, col=1)
    theme.dress(fig, "Which components moved the answer's logit", _diff_line(diff), height=640)
    fig.update_layout(
        coloraxis={**theme.diverging_axis(theme.symmetric_limit([deltas]), "logits"), "showscale": False},
        waterfallmode="group",
        waterfallgap=0.25,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
    )
    fig.update_yaxes(title="logits, cumulative", row=1, col=1)
    fig.update_yaxes(title="Δ logits", row=2, col=1)
    fig.update_xaxes(type="category")
    return fig


@finished
def head_triptych(diff: ModelDiff) -> go.Figure:
    """Draw the direct contribution of each head before | after | Δ, layer × head, on one symmetric scale.

    A diff with a noise baseline has a fourth facet: Δ of the baseline.
    """
    before, after = head_values(diff.heads_before), head_values(diff.heads_after)
    maps = {"before": before, "after": after, "Δ": after - before}
    if diff.floor is not None:
        maps["Δ, noise baseline"] = head_values(diff.floor.heads_after) - head_values(diff.floor.heads_before)
    fig = make_subplots(1, len(maps), shared_yaxes=True, subplot_titles=list(maps), horizontal_spacing=0.04)
    for column, values in enumerate(maps.values(), start=1):
        fig.add_trace(head_heatmap(values), row=1, col=column)
    theme.dress(fig, "Direct contribution of each head, before and after", _diff_line(diff))
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit(maps.values()), "logits"),
        height=head_map_height(before) + 24,
    )
    head_axes(fig, before)
    return fig


@finished
def source_triptych(diff: ModelDiff, *, heads: int = 16, top: int = 24) -> go.Figure:
    """Draw each head's contribution from each source token before | after | Δ, on one symmetric scale.

    A diff with a noise baseline has a fourth facet: Δ of the baseline.

    Args:
        diff: Diff made with sources.
        heads: Number of heads to show: those with the largest single entry before, after or in Δ, in the model's
            order.
        top: Number of source tokens to show. The last column is the sum of all others.

    Raises:
        InputError: If the diff was made without sources.
    """
    maps = _source_maps(diff)
    if diff.floor is not None:
        maps["Δ, noise baseline"] = _source_maps(diff.floor)["Δ"]
    n_heads = len(diff.heads_before.labels[1])
    largest = np.max([np.abs(values).max(1) for values in maps.values()], axis=0)
    chosen = sorted(np.argsort(-largest, kind="stable")[:heads].tolist())
    table = np.stack([values[chosen] for values in maps.values()]).transpose(2, 0, 1)  # [source, map, head]
    limit = theme.symmetric_limit([table])  # the sum of the rest may lie beyond
    table, tokens = theme.shortened(table, theme.token_labels(diff.tokens), top)
    fig = make_subplots(1, len(maps), shared_yaxes=True, subplot_titles=list(maps), horizontal_spacing=0.02)
    for column in range(1, len(maps) + 1):
        heatmap = go.Heatmap(
            z=table[:, column - 1].T,
            x=tokens,
            y=[f"L{row // n_heads}H{row % n_heads}" for row in chosen],
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y} from %{x}<br>%{z:+.4f} logits<extra></extra>",
        )
        fig.add_trace(heatmap, row=1, col=column)
    theme.dress(fig, "What each head moves from each token, before and after", _diff_line(diff))
    fig.update_layout(coloraxis=theme.diverging_axis(limit, "logits"), height=260 + 22 * len(chosen))
    theme.token_axis(fig, tokens, len(maps))
    fig.update_xaxes(title="source token")
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


def _source_maps(diff: ModelDiff) -> dict[str, NDArray[np.float64]]:
    """Compute `[layer · head, source]` before, after and Δ, mean over the answer tokens."""
    if diff.sources_before is None or diff.sources_after is None:
        raise InputError("this diff has no sources; make it with diff(..., sources=True)")
    before, after = (theme.array(d.values).mean(-1) for d in (diff.sources_before, diff.sources_after))
    before, after = (values.reshape(-1, values.shape[-1]) for values in (before, after))
    return {"before": before, "after": after, "Δ": after - before}


@finished
def contributions(diff: ModelDiff, *, top: int = 40) -> go.Figure:
    """Draw the contribution of each prompt token before and after, and below them Δ with its noise baseline.

    Args:
        diff: Diff made with contributions.
        top: Number of tokens: those with the largest contribution or change. The last is the sum of all others.

    Raises:
        InputError: If the diff was made without contributions.
    """
    frame = diff.contributions_frame()
    assert diff.contributions_before is not None
    columns = [c for c in ("before", "after", "delta", "delta_floor") if c in frame]
    table, tokens = theme.shortened(
        frame[columns].to_numpy(dtype=float), theme.token_labels(diff.contributions_before.tokens), top
    )
    frame = pd.DataFrame(table, columns=columns)
    fig = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.06)
    for k, side in enumerate(("before", "after")):
        fig.add_trace(go.Bar(name=side, x=tokens, y=frame[side], marker={"color": theme.PALETTE[k]}), row=1, col=1)
    deltas = go.Bar(name="Δ", x=tokens, y=frame["delta"], marker={"color": theme.PALETTE[2]})
    fig.add_trace(deltas, row=2, col=1)
    if "delta_floor" in frame:
        fig.add_trace(theme.floor_marks(tokens, frame["delta_floor"].tolist()), row=2, col=1)
    fig.update_traces(hovertemplate="%{x}<br>%{y:+.3f} nats<extra>%{fullData.name}</extra>")
    theme.dress(fig, "What each prompt token adds to the answer, before and after", _diff_line(diff), height=520)
    fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"})
    fig.update_yaxes(title="nats", row=1, col=1)
    fig.update_yaxes(title="Δ nats", row=2, col=1)
    fig.update_xaxes(type="category")
    return fig


def _diff_line(diff: ModelDiff) -> str:
    """Write Δ logit − Δ logsumexp = Δ log-prob in numbers, for a subtitle."""
    logit, normaliser, log_prob = (
        float(theme.array(v).mean()) for v in (diff.delta_logit, diff.delta_logsumexp, diff.delta_log_prob)
    )
    return theme.escape(
        f"answer “{theme.short(diff.answer.strip())}”, mean over its tokens: Δ logit {logit:+.2f} logits, "
        f"Δ logsumexp {normaliser:+.2f}, Δ log-prob {log_prob:+.2f} nats"
    )
