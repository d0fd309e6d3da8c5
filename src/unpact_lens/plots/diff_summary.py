"""Draw diffs averaged over a data set, with their intervals and beside their noise baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.errors import InputError, nearest
from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_axes, head_heatmap, head_map_height
from unpact_lens.plots.figure import Figure, finished

if TYPE_CHECKING:
    from unpact_lens.comparison import DiffSummary


@finished
def diff_summary(summary: DiffSummary, *, what: str = "components") -> Figure:
    """Draw what changed over a data set.

    Args:
        summary: Average of diffs.
        what: `"components"` (components and heads), `"split"` (why heads changed), `"activations"`, or `"focus"`.

    Raises:
        InputError: If `what` is unknown, or the summary was made without it.
    """
    views = {"components": _components, "split": _split, "activations": _activations, "focus": _focus}
    if what not in views:
        raise InputError(f"what={what!r}; {nearest(what, views)}")
    if what != "components" and getattr(summary, what) is None:
        option = "contributions" if what == "focus" else what
        raise InputError(f"this summary has no {what}; average diff(..., {option}=True)")
    return views[what](summary)


def _focus(summary: DiffSummary) -> go.Figure:
    """Draw how contributions moved, with the noise baseline of the summary."""
    from dataclasses import replace

    from unpact_lens.plots.focus import focus_shift

    assert summary.focus is not None
    return focus_shift(replace(summary.focus, floor=None if summary.floor is None else summary.floor.focus))


def _split(summary: DiffSummary) -> go.Figure:
    """Draw mean Δ of each head and the share of each player, layer × head; the noise baseline is a row below."""
    assert summary.split is not None
    rows = {"": summary} if summary.floor is None else {"": summary, "noise baseline: ": summary.floor}
    titles = ["Δ", *summary.players]
    shown = [s for s in rows.values() if s.split is not None]
    maps = [[theme.array(s.heads), *theme.array(s.split)] for s in shown]
    fig = make_subplots(
        len(maps),
        len(titles),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.22,
        subplot_titles=[f"{row}{title}" for row in rows for title in titles],
    )
    for row, (side, facets) in enumerate(zip(shown, maps, strict=True), start=1):
        p = [side.adjusted_p.get("heads"), *side.adjusted_p.get("split", [None] * len(side.players))]
        for column, values in enumerate(facets, start=1):
            fig.add_trace(head_heatmap(values[..., 0]), row=row, col=column)
            if values is not maps[0][0]:
                head_axes(fig, values[..., 0])
            fig.add_trace(theme.significant(p[column - 1], side.level), row=row, col=column)
    subtitle = f"mean Shapley shares of Δ [logits] over {len(summary.ids)} questions; {theme.dot_legend(summary.level)}"
    theme.dress(fig, "Why heads changed, over the data set", theme.escape(subtitle))
    limit = theme.symmetric_limit([values[..., 0] for facets in maps for values in facets])
    height = head_map_height(maps[0][0][..., 0])
    if len(maps) > 1:  # the titles of the lower maps take the place of the upper axis titles
        fig.update_xaxes(title=None, row=1)
    fig.update_layout(
        coloraxis=theme.diverging_axis(limit, "logits"), height=40 + len(maps) * height, yaxis_title="layer"
    )
    return fig


def _activations(summary: DiffSummary) -> go.Figure:
    """Draw mean relative change, cosine and CKA of each hook, and KL, with intervals and the noise baseline."""
    assert summary.activations is not None
    titles = ["‖Δ‖ / ‖before‖", "cosine", "linear CKA", "KL(before ‖ after) [nats]"]
    fig = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.36, horizontal_spacing=0.1)
    sides = {"before against after": (summary, theme.PALETTE[0])}
    if summary.floor is not None:
        sides["noise baseline"] = (summary.floor, theme.MUTED)
    for name, (side, colour) in sides.items():
        assert side.activations is not None
        kl = np.stack([theme.array(side.scalars[key]) for key in ("kl_prompt", "kl_answer")])
        panels = [(list(side.hooks), theme.array(v)) for v in side.activations.values()]
        panels.append((["prompt", "answer"], kl))
        for k, (labels, values) in enumerate(panels):
            fig.add_trace(
                go.Scatter(
                    x=[theme.escape(label.removeprefix("blocks.")) for label in labels],
                    y=values[:, 0],
                    name=name,
                    legendgroup=name,
                    showlegend=k == 0,
                    mode="markers",
                    marker={"color": colour, "size": 8, "symbol": "circle" if side is summary else "diamond-open"},
                    error_y=theme.whiskers(values),
                    hovertemplate="%{x}<br>%{y:.4f}<extra>%{fullData.name}</extra>",
                ),
                row=k // 2 + 1,
                col=k % 2 + 1,
            )
    subtitle = f"means over {len(summary.ids)} questions, {summary.level:.0%} intervals over subjects"
    theme.dress(fig, "How far activations moved, over the data set", theme.escape(subtitle), height=760)
    fig.update_xaxes(type="category", tickangle=-60)
    fig.update_yaxes(rangemode="tozero", row=1, col=1)
    fig.update_yaxes(rangemode="tozero", row=2, col=2)
    fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.06, "yanchor": "bottom"})
    return fig


def _components(summary: DiffSummary) -> go.Figure:
    """Draw mean Δ of each component with its interval, beside the noise baseline, and Δ of each head."""
    table = theme.array(summary.components)
    labels = [theme.escape(label) for label in summary.labels[0]]
    maps = {f"heads ({theme.dot_legend(summary.level)})": summary}
    if summary.floor is not None:
        maps["heads, noise baseline"] = summary.floor
    fig = make_subplots(
        2,
        len(maps),
        vertical_spacing=0.3,
        horizontal_spacing=0.06,
        row_heights=[0.6, 0.4],
        specs=[[{"colspan": len(maps)}, *([None] * (len(maps) - 1))], [{}] * len(maps)],
        subplot_titles=["components", *maps],
    )
    series = {"Δ": (table, theme.PALETTE[0])}
    if summary.floor is not None:
        series["noise baseline"] = (theme.array(summary.floor.components), theme.MUTED)
    for name, (values, colour) in series.items():
        fig.add_trace(
            go.Bar(
                name=name,
                x=labels,
                y=values[:, 0],
                marker={"color": colour},
                error_y=theme.whiskers(values),
                hovertemplate="%{x}<br>%{y:+.3f} logits<extra>%{fullData.name}</extra>",
            ),
            row=1,
            col=1,
        )
    heads = [theme.array(side.heads) for side in maps.values()]
    for column, (side, values) in enumerate(zip(maps.values(), heads, strict=True), start=1):
        fig.add_trace(head_heatmap(values[..., 0]), row=2, col=column)
        fig.add_trace(theme.significant(side.adjusted_p.get("heads"), side.level), row=2, col=column)
    theme.dress(fig, "Which components moved, over the data set", _scalars(summary), height=760)
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit([values[..., 0] for values in heads]), "logits"),
        coloraxis_colorbar={"len": 0.36, "y": 0.14},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
    )
    fig.update_yaxes(title="mean Δ, logits", row=1, col=1)
    fig.update_xaxes(type="category", tickangle=-60, row=1, col=1)
    plain = {"showgrid": False, "zeroline": False, "tick0": 0}
    n_layers, n_heads = heads[0].shape[:2]
    fig.update_xaxes(title="head", dtick=-(-n_heads // 16), **plain, row=2)
    fig.update_yaxes(autorange="reversed", dtick=-(-n_layers // 16), **plain, row=2)
    fig.update_yaxes(title="layer", row=2, col=1)
    return fig


def _scalars(summary: DiffSummary) -> str:
    """Write mean Δ log-prob, logit and logsumexp with their intervals, for a subtitle."""
    parts = (
        f"Δ {name.replace('_', '-')} {mean:+.2f} [{low:+.2f}, {high:+.2f}] {'logits' if name == 'logit' else 'nats'}"
        for name, (mean, low, high, _) in ((k, v.tolist()) for k, v in summary.scalars.items())
        if not name.startswith("kl")
    )
    return theme.escape(f"{len(summary.ids)} questions; " + ", ".join(parts) + f"; {summary.level:.0%} intervals")
