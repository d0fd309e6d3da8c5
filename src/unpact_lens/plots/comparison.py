"""Two models on one question, drawn: component by component, head by head, weight by weight, patch by patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.errors import InputError, nearest
from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import component_bars, head_axes, head_heatmap, head_map_height, head_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unpact_lens.comparison.result import ActivationChanges, HeadSplit, ModelDiff, PatchingMap, WeightChanges


def model_diff(diff: ModelDiff, *, what: str = "components") -> go.Figure:
    """What changed in the answer to one question.

    Args:
        diff: one question, two models. Values are means over the answer tokens.
        what: `"components"` (waterfalls and Δ), `"heads"` (layer × head before | after | Δ), `"sources"` (head × source
            token before | after | Δ), or `"contributions"` (of the prompt's tokens).

    Raises:
        InputError: if `what` is unknown, or the diff was made without it.
    """
    views = {
        "components": component_waterfalls, "heads": head_triptych, "sources": source_triptych,
        "contributions": contributions,
    }  # fmt: skip
    if what not in views:
        raise InputError(f"what={what!r}; {nearest(what, views)}")
    return views[what](diff)


def component_waterfalls(diff: ModelDiff) -> go.Figure:
    """Waterfalls of the logit before and after, and under them Δ of each component; they sum to Δ logit."""
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
    if diff.floor is not None:
        _, noise_before = component_bars(diff.floor.components_before)
        _, noise_after = component_bars(diff.floor.components_after)
        noise = np.subtract(noise_after, noise_before)
        fig.add_trace(theme.floor_marks([*labels, "logit"], [*noise.tolist(), float(noise.sum())]), row=2, col=1)
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
    """Direct contribution of each head before | after | Δ, layer × head, on one symmetric scale.

    A diff with a noise floor has a fourth facet: Δ of the floor.
    """
    before, after = head_values(diff.heads_before), head_values(diff.heads_after)
    maps = {"before": before, "after": after, "Δ": after - before}
    if diff.floor is not None:
        maps["Δ, noise floor"] = head_values(diff.floor.heads_after) - head_values(diff.floor.heads_before)
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


def source_triptych(diff: ModelDiff, *, heads: int = 16) -> go.Figure:
    """What each head moves from each source token into the logit before | after | Δ, on one symmetric scale.

    A diff with a noise floor has a fourth facet: Δ of the floor.

    Args:
        diff: made with sources.
        heads: how many heads to show: those with the largest single entry before, after or in Δ, in the model's order.

    Raises:
        InputError: if the diff was made without sources.
    """
    maps = _source_maps(diff)
    if diff.floor is not None:
        maps["Δ, noise floor"] = _source_maps(diff.floor)["Δ"]
    n_heads = len(diff.heads_before.labels[1])
    largest = np.max([np.abs(values).max(1) for values in maps.values()], axis=0)
    chosen = sorted(np.argsort(-largest, kind="stable")[:heads].tolist())
    fig = make_subplots(1, len(maps), shared_yaxes=True, subplot_titles=list(maps), horizontal_spacing=0.02)
    for column, values in enumerate(maps.values(), start=1):
        heatmap = go.Heatmap(
            z=values[chosen],
            x=theme.token_labels(diff.tokens),
            y=[f"L{row // n_heads}H{row % n_heads}" for row in chosen],
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y} from %{x}<br>%{z:+.4f} logits<extra></extra>",
        )
        fig.add_trace(heatmap, row=1, col=column)
    theme.dress(fig, "What each head moves from each token, before and after", _diff_line(diff))
    shown = [values[chosen] for values in maps.values()]
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit(shown), "logits"), height=260 + 22 * len(chosen)
    )
    theme.token_axis(fig, diff.tokens, len(maps))
    fig.update_xaxes(title="source token")
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


def _source_maps(diff: ModelDiff) -> dict[str, NDArray[np.float64]]:
    """`[layer · head, source]` before, after and Δ, mean over the answer tokens."""
    if diff.sources_before is None or diff.sources_after is None:
        raise InputError("this diff has no sources; make it with diff(..., sources=True)")
    before, after = (theme.array(d.values).mean(-1) for d in (diff.sources_before, diff.sources_after))
    before, after = (values.reshape(-1, values.shape[-1]) for values in (before, after))
    return {"before": before, "after": after, "Δ": after - before}


def head_split(split: HeadSplit) -> go.Figure:
    """Why each head's part in the logit changed: its Δ, and the share of each player; they sum to Δ. One scale.

    Where the pattern's share was split again, its two parts follow; where there is a noise floor, it is a second row.
    """
    maps = _split_maps(split)
    rows = [maps] if split.floor is None else [maps, {f"{k}, floor": v for k, v in _split_maps(split.floor).items()}]
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
    if len(rows) > 1:  # the titles of the lower maps stand where those of the upper axes would
        fig.update_xaxes(title=None, row=1)
    return fig


def _split_maps(split: HeadSplit) -> dict[str, NDArray[np.float64]]:
    """Δ, each player and each part of the pattern, `[layer, head]`, mean over the answer tokens."""
    maps = {"Δ": theme.array(split.delta).mean(-1)}
    maps |= {player: theme.array(v).mean(-1) for player, v in zip(split.players, split.values, strict=True)}
    if split.pattern_parts is not None:
        parts = zip(("QK weights", "QK input"), split.pattern_parts, strict=True)
        maps |= {name: theme.array(v).mean(-1) for name, v in parts}
    return maps


def contributions(diff: ModelDiff) -> go.Figure:
    """Contribution of each prompt token to the answer before and after, and under them Δ with its noise floor.

    Args:
        diff: made with contributions.

    Raises:
        InputError: if it was made without.
    """
    frame = diff.contributions_frame()
    assert diff.contributions_before is not None
    tokens = theme.token_labels(diff.contributions_before.tokens)
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
    fig.update_xaxes(type="category", tickangle=-45)
    return fig


def activation_changes(changes: ActivationChanges) -> go.Figure:
    """KL of the next-token distributions at each position, and under it ‖Δ‖ / ‖before‖, hook by position.

    Hover gives the cosine of before and after, and CKA. A noise floor stands to the right, on the same scales.
    """
    sides = {"before against after": changes}
    if changes.floor is not None:
        sides["noise floor"] = changes.floor
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
    tokens = theme.token_labels(changes.tokens)
    for column, side in enumerate(sides.values(), start=1):
        bars = go.Bar(
            x=tokens,
            y=theme.array(side.kl),
            marker={"color": theme.PALETTE[0]},
            hovertemplate="%{x}<br>KL(before ‖ after) %{y:.4f} nats<extra></extra>",
        )
        fig.add_trace(bars, row=1, col=column)
        cka = np.broadcast_to(theme.array(side.cka)[:, None], side.cosine.shape)
        fig.add_trace(
            go.Heatmap(
                z=theme.array(side.relative),
                x=tokens,
                y=[theme.escape(hook) for hook in side.hooks],
                customdata=np.stack([theme.array(side.cosine), cka], axis=-1),
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
        theme.escape(f"at each position, prompt and answer “{theme.short(changes.answer.strip())}”"),
        height=320 + 20 * len(changes.hooks),
        showlegend=False,
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "cmin": 0,
            "cmax": limit,
            "colorbar": {**bar, "len": 0.7, "y": 0.35},
        },
    )
    theme.token_axis(fig, changes.tokens, len(sides))
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False, row=2)
    fig.update_yaxes(title="KL, nats", row=1, col=1)
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
    if changes.floor is not None:
        names = [theme.escape(changes.names[i]) for i in order]
        fig.add_trace(theme.floor_marks(theme.array(changes.floor.relative)[order], names))
        fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    fig.update_traces(showlegend=False, selector={"type": "bar"})
    fig.update_xaxes(title="‖Δ‖ / ‖before‖", rangemode="tozero")
    fig.update_yaxes(type="category", autorange="reversed")
    fig.update_layout(height=200 + 18 * len(order))
    return fig


def patching_map(patching: PatchingMap) -> go.Figure:
    """Change of the answer's mean log-probability by each patch; hover gives the share of the gap that it closes.

    A noise floor stands below, on the same scale.
    """
    maps = {"": patching} if patching.floor is None else {"patched": patching, "noise floor": patching.floor}
    columns = [[theme.escape(theme.visible(c)) for c in side.labels[1]] for side in maps.values()]
    rows = [theme.escape(r) for r in patching.labels[0]]
    fig = make_subplots(len(maps), 1, shared_xaxes=True, subplot_titles=list(maps), vertical_spacing=0.12)
    for row, side in enumerate(maps.values(), start=1):
        heatmap = go.Heatmap(
            z=theme.array(side.values),
            x=columns[row - 1],
            y=rows,
            customdata=theme.array(side.restored),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}<br>%{z:+.3f} nats, %{customdata:.0%} of the gap<extra></extra>",
        )
        fig.add_trace(heatmap, row=row, col=1)
    values = [theme.array(side.values) for side in maps.values()]
    verb = "Grafting" if patching.what.startswith("weights") else "Patching"
    theme.dress(
        fig,
        f"{verb} {theme.escape(patching.what)}, {theme.escape(patching.direction.replace('_', ' '))}",
        theme.escape(
            f"change of the mean log-probability of “{theme.short(patching.answer.strip())}” [nats], "
            f"{patching.method}; unpatched {patching.baseline:.2f}, the other model {patching.donor:.2f}"
        ),
        coloraxis=theme.diverging_axis(theme.symmetric_limit(values), "nats"),
        height=40 * (len(maps) - 1) + len(maps) * head_map_height(values[0]),
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
