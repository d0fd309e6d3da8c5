"""Interventions and averages, drawn: where heads look, direct and indirect paths, ablations, KeyTokens, depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_map_height

if TYPE_CHECKING:
    from unpact_lens.comparison import AttentionPatterns, DiffSummary, KeyPath, UnlearningDepth
    from unpact_lens.decomposition import Ablation, PathEffects


def path_effects(effects: PathEffects) -> go.Figure:
    """What each head's reading of each source token is worth to the logit: direct, indirect, total; one scale."""
    maps = {name: theme.array(getattr(effects, name)).mean(-1) for name in ("direct", "indirect", "total")}
    fig = make_subplots(1, 3, shared_yaxes=True, subplot_titles=list(maps), horizontal_spacing=0.02)
    for column, values in enumerate(maps.values(), start=1):
        fig.add_trace(
            go.Heatmap(
                z=values,
                x=theme.token_labels(effects.tokens),
                y=[f"L{layer}H{head}" for layer, head in effects.heads],
                coloraxis="coloraxis",
                hovertemplate="%{y} from %{x}<br>%{z:+.4f} logits<extra></extra>",
            ),
            row=1,
            col=column,
        )
    held = " and ".join(effects.frozen) or "nothing"
    theme.dress(
        fig,
        "Straight into the answer, or through later layers",
        theme.escape(f"logits of “{theme.short(effects.answer.strip())}”, mean over its tokens; held: {held}"),
        height=220 + 18 * len(effects.heads),
        coloraxis=theme.diverging_axis(theme.symmetric_limit(maps.values()), "logits"),
    )
    fig.update_xaxes(type="category", tickangle=-45, showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


def ablation_map(ablation: Ablation) -> go.Figure:
    """What the answer's mean log-probability loses without each part; hover gives the spread over resamples."""
    values = theme.array(ablation.values)
    title = f"What each {ablation.what} is worth to the answer"
    fig = theme.figure(
        title,
        theme.escape(
            f"mean log-probability of “{theme.short(ablation.answer.strip())}” with it minus without it [nats]; "
            f"{ablation.how} ablation at every position"
        ),
        height=head_map_height(values),
        coloraxis=theme.diverging_axis(theme.symmetric_limit([values]), "nats"),
    )
    fig.add_trace(
        go.Heatmap(
            z=values,
            x=list(ablation.labels[1]),
            y=list(ablation.labels[0]),
            customdata=theme.array(ablation.spread),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}<br>%{z:+.4f} nats, spread %{customdata:.4f}<extra></extra>",
        )
    )
    fig.update_xaxes(type="category", showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


def key_path(path: KeyPath) -> go.Figure:
    """How much of the lost answer comes back through the KeyTokens, beside other tokens; and head by head."""
    heads = theme.array(path.values)
    fig = make_subplots(
        1, 2, column_widths=[0.4, 0.6], horizontal_spacing=0.12,
        subplot_titles=["mean log-probability of the answer [nats]", "through the KeyTokens, one head alone [nats]"],
    )  # fmt: skip
    rest = theme.array(path.log_prob_rest)
    bars = {
        "after": path.log_prob_after,
        "other tokens": float(rest.mean()) if len(rest) else float("nan"),
        "KeyTokens": path.log_prob_key,
        "all tokens": path.log_prob_all,
        "before": path.log_prob_before,
    }
    spread = [float(rest.std()) if name == "other tokens" and len(rest) > 1 else 0.0 for name in bars]
    fig.add_trace(
        go.Bar(
            x=list(bars),
            y=list(bars.values()),
            error_y={"array": spread, "visible": True},
            marker={"color": [theme.PALETTE[k] for k in (7, 4, 0, 5, 2)]},
            hovertemplate="%{x}<br>%{y:.3f} nats<extra></extra>",
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    fig.add_trace(
        go.Heatmap(
            z=heads,
            x=list(path.labels[1]),
            y=list(path.labels[0]),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y}%{x}<br>%{z:+.4f} nats<extra></extra>",
        ),
        row=1,
        col=2,
    )
    keys = ", ".join(f"“{theme.short(theme.visible(path.tokens[k]), 16)}”" for k in path.keys)
    theme.dress(
        fig,
        "What comes back when heads read the KeyTokens as before",
        theme.escape(
            f"{path.share:.0%} of the loss through {keys}, {path.share_rest:.0%} through as many others; "
            f"put back: {path.restore}"
        ),
        height=max(360, head_map_height(heads)),
        coloraxis=theme.diverging_axis(theme.symmetric_limit([heads]), "nats"),
    )
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False, row=1, col=2)
    return fig


def unlearning_depth(depth: UnlearningDepth) -> go.Figure:
    """What each layer's state of the retrain model, and of the unlearned model, costs the full model; means."""
    fig = theme.figure(
        "How deep the unlearning reaches",
        f"loss of the answer's mean log-probability with the other model's state after each layer [nats]; "
        f"UDS {depth.score:.2f} (0 still there, 1 as deep as retraining), {len(depth.ids)} items",
        height=400,
    )
    for k, (name, values) in enumerate({"retrain": depth.delta_retrain, "unlearned": depth.delta_unlearned}.items()):
        colour, symbol = theme.series_style(k)
        fig.add_trace(
            go.Scatter(
                x=list(depth.labels),
                y=theme.array(values).mean(0),
                name=name,
                mode="lines+markers",
                line={"color": colour},
                marker={"symbol": symbol, "size": 7},
                hovertemplate="%{x}<br>%{y:.3f} nats<extra>%{fullData.name}</extra>",
            )
        )
    fig.add_hline(y=depth.threshold, line={"dash": "dot", "color": theme.MUTED})
    fig.update_xaxes(type="category", title="state after layer")
    fig.update_yaxes(title="nats")
    return fig


def diff_summary(summary: DiffSummary, *, top: int = 24) -> go.Figure:
    """Mean Δ of the components that changed most, with intervals, beside the noise floor where there is one.

    Args:
        summary: averages over a data set.
        top: how many components to show, the largest |mean| first.
    """
    table = theme.array(summary.components)
    order = np.argsort(-np.abs(table[:, 0]), kind="stable")[:top]
    names = [theme.escape(summary.labels[0][i]) for i in order]
    mean, low, high = (table[order, k] for k in range(3))
    low, high = (np.where(np.isnan(end), mean, end) for end in (low, high))
    logit, log_prob = (float(summary.scalars[name][0]) for name in ("logit", "log_prob"))
    fig = theme.figure(
        "Which components moved the answers' logits",
        theme.escape(
            f"mean Δ over {len(summary.ids)} questions [logits], {summary.level:.0%} intervals over subjects; "
            f"Δ logit {logit:+.2f}, Δ log-prob {log_prob:+.2f} nats"
        ),
        height=220 + 20 * len(order),
    )
    fig.add_trace(
        go.Bar(
            x=mean,
            y=names,
            orientation="h",
            name="Δ",
            marker={"color": theme.PALETTE[0]},
            error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low},
            hovertemplate="%{y}<br>%{x:+.4f} logits<extra></extra>",
        )
    )
    if summary.floor is not None:
        fig.add_trace(
            go.Bar(
                x=theme.array(summary.floor.components)[order, 0],
                y=names,
                orientation="h",
                name="noise floor",
                marker={"color": theme.PALETTE[7]},
                hovertemplate="%{y}, floor<br>%{x:+.4f} logits<extra></extra>",
            )
        )
    fig.update_xaxes(title="logits", zeroline=True)
    fig.update_yaxes(type="category", autorange="reversed")
    return fig


def attention_patterns(patterns: AttentionPatterns) -> go.Figure:
    """Attention of the most changed heads over the prompt, one row a head: before, after, Δ; all on one scale."""
    tokens = theme.token_labels(patterns.tokens)
    names = [f"L{layer}H{head}" for layer, head in patterns.heads]
    before, after = theme.array(patterns.before), theme.array(patterns.after)
    titles = [f"{name} {side}" for name in names for side in ("before", "after", "Δ")]
    fig = make_subplots(
        len(names), 3, shared_xaxes=True, shared_yaxes=True, subplot_titles=titles,
        horizontal_spacing=0.02, vertical_spacing=min(0.08, 0.3 / len(names)),
    )  # fmt: skip
    for row, name in enumerate(names):
        for column, values in enumerate((before[row], after[row], after[row] - before[row])):
            # A causal model never looks ahead: those cells are left empty, not drawn as zeros.
            shown = np.where(np.tril(np.ones_like(values, dtype=bool)), values, np.nan)
            fig.add_trace(
                go.Heatmap(
                    z=shown,
                    x=tokens,
                    y=tokens,
                    coloraxis="coloraxis",
                    hovertemplate=f"{name}: %{{y}} looks at %{{x}}<br>%{{z:.3f}}<extra></extra>",
                ),
                row=row + 1,
                col=column + 1,
            )
    theme.dress(
        fig,
        "Where the most changed heads look",
        theme.escape(f"attention weight, query downwards, key across; answer “{theme.short(patterns.answer.strip())}”"),
        height=140 + max(220, 14 * len(tokens)) * len(names),
        coloraxis=theme.diverging_axis(theme.symmetric_limit([before, after, after - before]), "weight"),
    )
    fig.update_xaxes(type="category", tickangle=-45, showgrid=False)
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig
