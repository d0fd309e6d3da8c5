"""Draw diffs averaged over a data set, with their intervals and beside their noise baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.errors import InputError, nearest
from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import MAX_BARS, head_axes, head_heatmap, head_map_height
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from unpact_lens.comparison import DiffSummary


@finished
def diff_summary(summary: DiffSummary, *, what: str = "components") -> go.Figure:
    """Draw what changed over a data set.

    Args:
        summary: Average of diffs.
        what: `"components"`, `"heads"` (layer × head), `"tokens"` (how the focus on the prompt's tokens moved; also
            `"focus"`), `"split"` (why heads changed), or `"activations"`.

    Raises:
        InputError: If `what` is unknown, or the summary was made without it.
    """
    views = {
        "components": _components, "heads": _heads, "tokens": _focus, "sources": _no_sources, "split": _split,
        "activations": _activations, "focus": _focus,
    }  # fmt: skip
    if what not in views:
        raise InputError(f"what={what!r}; {nearest(what, views)}")
    part = {"tokens": "focus"}.get(what, what)
    if part in ("focus", "split", "activations") and getattr(summary, part) is None:
        option = "contributions" if part == "focus" else what
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
    """Draw mean Δ of the components that moved most, with intervals, beside the noise baseline."""
    sides = {"Δ": (summary, theme.PALETTE[0])}
    if summary.floor is not None:
        sides["noise baseline"] = (summary.floor, theme.MUTED)
    tables = [theme.array(side.components) for side, _ in sides.values()]
    kept, rest = theme.strongest(np.stack([table[:, 0] for table in tables], axis=1), MAX_BARS)
    labels = [theme.escape(summary.labels[0][k]) for k in kept]
    fig = go.Figure()
    for (name, (_, colour)), table in zip(sides.items(), tables, strict=True):
        values = table[kept]
        others = float(np.delete(table[:, 0], kept).sum())
        fig.add_trace(
            go.Bar(
                name=name,
                x=[*labels, *([rest] if rest else [])],
                y=[*values[:, 0], *([others] if rest else [])],
                marker={"color": colour},
                error_y=theme.whiskers(values),  # none at the rest: a sum has another interval
                hovertemplate="%{x}<br>%{y:+.3f} logits<extra>%{fullData.name}</extra>",
            )
        )
    theme.dress(fig, "Which components moved, over the data set", _scalars(summary), height=480)
    fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    fig.update_yaxes(title="mean Δ, logits")
    fig.update_xaxes(type="category")
    return fig


def _heads(summary: DiffSummary) -> go.Figure:
    """Draw mean Δ of each head, layer × head, beside the noise baseline, on one symmetric scale."""
    sides = {"Δ": summary} if summary.floor is None else {"Δ": summary, "noise baseline": summary.floor}
    means = [theme.array(side.heads)[..., 0] for side in sides.values()]
    fig = make_subplots(1, len(sides), shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=list(sides))
    for column, (side, values) in enumerate(zip(sides.values(), means, strict=True), start=1):
        fig.add_trace(head_heatmap(values), row=1, col=column)
        fig.add_trace(theme.significant(side.adjusted_p.get("heads"), side.level), row=1, col=column)
    subtitle = f"{_scalars(summary)}; {theme.escape(theme.dot_legend(summary.level))}"
    theme.dress(fig, "Which heads moved, over the data set", subtitle)
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit(means), "logits"), height=head_map_height(means[0])
    )
    head_axes(fig, means[0])
    return fig


def _no_sources(summary: DiffSummary) -> go.Figure:
    """Refuse a figure of source tokens, which differ from question to question."""
    raise InputError("source tokens differ from question to question; plot 'sources' of one diff(..., sources=True)")


def _scalars(summary: DiffSummary) -> str:
    """Write mean Δ log-prob, logit and logsumexp with their intervals, for a subtitle."""
    parts = (
        f"Δ {name.replace('_', '-')} {mean:+.2f} [{low:+.2f}, {high:+.2f}] {'logits' if name == 'logit' else 'nats'}"
        for name, (mean, low, high, _) in ((k, v.tolist()) for k, v in summary.scalars.items())
        if not name.startswith("kl")
    )
    return theme.escape(f"{len(summary.ids)} questions; " + ", ".join(parts) + f"; {summary.level:.0%} intervals")
