"""Draw what each part of a model adds to the answer's logit: waterfalls, head maps, source maps, lens curves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.errors import InputError, nearest
from unpact_lens.plots import theme
from unpact_lens.plots.figure import Figure, finished

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unpact_lens.comparison.lens_changes import LensChanges
    from unpact_lens.decomposition import Decomposition, LensCurves

MAX_BARS = 40
"""Largest number of bars of a waterfall; with more parts, the heads of a layer become one bar, and small ones too."""

_HEAD = re.compile(r"^(L\d+)H\d+$")


@finished
def decomposition(d: Decomposition, *, what: str | None = None) -> go.Figure:
    """Draw a decomposition.

    Args:
        d: Decomposition of the answer's logit.
        what: `"components"` (waterfall), `"heads"` (layer × head), `"sources"` (head × source token), `"tokens"` (each
            source token through all heads) or `"neurons"` (the strongest). If None, the view of the decomposition.

    Raises:
        InputError: If `what` is unknown, or the decomposition does not resolve it.
    """
    views = {
        "components": (waterfall, ("component",)), "heads": (head_map, ("head", "source")),
        "sources": (source_map, ("source",)), "tokens": (source_tokens, ("source",)), "neurons": (neurons, ("neuron",)),
    }  # fmt: skip
    asked = f"{d.by}s" if what is None else what
    if asked not in views:
        raise InputError(f"what={asked!r}; {nearest(asked, views)}")
    draw, resolved = views[asked]
    if d.by not in resolved:
        raise InputError(f"a decomposition by {d.by!r} does not show {asked}; decompose(..., by={resolved[0]!r}) does")
    return draw(d)


@finished
def source_tokens(d: Decomposition, *, top: int = 40) -> go.Figure:
    """Draw what all heads together move from each source token into the logit, mean over the answer tokens.

    Args:
        d: Decomposition by source.
        top: Number of tokens: those with the largest value. The last bar is the sum of all others.
    """
    if d.by != "source":
        raise InputError(f"source tokens need a decomposition by 'source', not by {d.by!r}")
    values, labels = theme.shortened(theme.array(d.values).mean(-1).sum((0, 1)), theme.token_labels(d.tokens), top)
    fig = theme.figure("What all heads move from each token into the logit", described(d))
    fig.add_trace(theme.signed_bars(values, labels, "from %{y}<br>%{x:+.4f} logits<extra></extra>"))
    fig.update_xaxes(title="logits")
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    fig.update_layout(height=200 + max(16 * len(labels), 90))
    return fig


@finished
def waterfall(d: Decomposition) -> go.Figure:
    """Draw the sum from the embedding to the logit, one step for each component, mean over the answer tokens.

    Args:
        d: Decomposition by component. Of more than `MAX_BARS` parts, small ones share a bar; see `grouped_bars`.
    """
    labels, values = component_bars(d)
    fig = theme.figure("From embedding to logit, component by component", described(d))
    fig.add_trace(
        go.Waterfall(
            x=[*labels, "logit"],
            y=[*values, float(theme.array(d.total).mean())],
            measure=["relative"] * len(values) + ["total"],
            increasing={"marker": {"color": theme.PALETTE[0]}},
            decreasing={"marker": {"color": theme.PALETTE[1]}},
            totals={"marker": {"color": theme.MUTED}},
            connector={"line": {"color": theme.GRID, "width": 1}},
            hovertemplate="%{x}<br>%{delta:+.3f} logits, then %{final:.3f}<extra></extra>",
        )
    )
    fig.update_yaxes(title="logits, cumulative")
    fig.update_xaxes(type="category")
    fig.update_layout(height=480, showlegend=False)
    return fig


@finished
def head_map(d: Decomposition) -> Figure:
    """Draw each head's direct contribution, layer × head, mean over the answer tokens; source tokens are summed."""
    values = head_values(d)
    fig = theme.figure("Direct contribution of each head to the logit", described(d))
    fig.add_trace(head_heatmap(values))
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit([values]), "logits"), height=head_map_height(values)
    )
    head_axes(fig, values)
    return fig


@finished
def source_map(d: Decomposition, *, heads: int = 16, top: int = 40) -> go.Figure:
    """Draw what each head moves from each source token into the answer's logit, mean over the answer tokens.

    Args:
        d: Decomposition by source.
        heads: Number of heads to show: those with the largest single entry, in the order of the model.
        top: Number of source tokens to show. The last column is the sum of all others.
    """
    if d.by != "source":
        raise InputError(f"a source map needs a decomposition by 'source', not by {d.by!r}")
    values = theme.array(d.values).mean(-1)
    n_layers, n_heads, n_sources = values.shape
    rows = values.reshape(n_layers * n_heads, n_sources)
    chosen = sorted(np.argsort(-np.abs(rows).max(1), kind="stable")[:heads].tolist())
    shown, tokens = theme.shortened(rows[chosen].T, theme.token_labels(d.tokens), top)
    fig = theme.figure("What each head moves from each token into the logit", described(d))
    fig.add_trace(
        go.Heatmap(
            z=shown.T,
            x=tokens,
            y=[f"L{row // n_heads}H{row % n_heads}" for row in chosen],
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y} from %{x}<br>%{z:+.4f} logits<extra></extra>",
        )
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit([rows[chosen]]), "logits"), height=220 + 22 * len(chosen)
    )
    theme.token_axis(fig, tokens)
    fig.update_xaxes(title="source token")
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


@finished
def neurons(d: Decomposition, *, top: int = 20) -> go.Figure:
    """Draw the neurons with the largest effect on the answer's logit, mean over the answer tokens.

    Args:
        d: Decomposition by neuron.
        top: Number of neurons, by absolute value.
    """
    if d.by != "neuron":
        raise InputError(f"a neuron plot needs a decomposition by 'neuron', not by {d.by!r}")
    values = theme.array(d.values).mean(-1)
    flat = values.reshape(-1)
    chosen = np.argsort(-np.abs(flat), kind="stable")[:top]
    fig = theme.figure("The neurons with the largest direct contribution", described(d))
    fig.add_trace(
        go.Bar(
            x=flat[chosen],
            y=[f"L{i // values.shape[1]}N{i % values.shape[1]}" for i in chosen.tolist()],
            orientation="h",
            marker={"color": [theme.PALETTE[0] if v >= 0 else theme.PALETTE[1] for v in flat[chosen]]},
            hovertemplate="%{y}<br>%{x:+.4f} logits<extra></extra>",
        )
    )
    fig.update_xaxes(title="logits", zeroline=True)
    fig.update_yaxes(type="category", autorange="reversed")
    fig.update_layout(height=200 + 20 * len(chosen))
    return fig


@finished
def lens_curves(curves: LensCurves) -> go.Figure:
    """Draw logit, probability and rank of each answer token when it is read after each layer."""
    panels = {"logit": curves.logit, "probability": curves.probability, "rank (0 is first)": curves.rank}
    fig = make_subplots(1, 3, subplot_titles=list(panels), horizontal_spacing=0.08)
    for k, token in enumerate(theme.token_labels(curves.answer_tokens)):
        colour, symbol = theme.series_style(k)
        for column, values in enumerate(panels.values(), start=1):
            fig.add_trace(
                go.Scatter(
                    x=list(curves.labels[0]),
                    y=theme.array(values)[:, k],
                    name=token,
                    legendgroup=token,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": colour},
                    marker={"symbol": symbol, "size": 6},
                    hovertemplate="%{x}<br>%{y:.4g}<extra>%{fullData.name}</extra>",
                ),
                row=1,
                col=column,
            )
    subtitle = f"{curves.lens} lens [logits, probability, rank], answer “{theme.short(curves.answer.strip())}”"
    theme.dress(fig, "The answer after each layer", theme.escape(subtitle), height=420)
    fig.update_xaxes(type="category", title="after layer")
    fig.update_yaxes(autorange="reversed", rangemode="tozero", row=1, col=3)
    return fig


@finished
def lens_changes(changes: LensChanges) -> go.Figure:
    """Draw logit, log-probability and rank after each layer for two models, and Δ below, with its noise baseline.

    Args:
        changes: Changes of one question between two models. Values are means over the answer tokens.
    """
    panels = {"logit": "logits", "log_prob": "nats", "rank": "tokens ahead"}
    titles = ["logit", "log-probability", "rank (0 is first)"]
    fig = make_subplots(
        2, 3, shared_xaxes=True, row_heights=[0.6, 0.4], subplot_titles=titles, vertical_spacing=0.08,
        horizontal_spacing=0.09,
    )  # fmt: skip
    layers = list(changes.before.labels[0])
    for column, name in enumerate(panels, start=1):
        for k, side in enumerate(("before", "after")):
            colour, symbol = theme.series_style(k)
            fig.add_trace(
                go.Scatter(
                    x=layers,
                    y=theme.array(getattr(getattr(changes, side), name)).mean(1),
                    name=side,
                    legendgroup=side,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": colour},
                    marker={"symbol": symbol, "size": 6},
                ),
                row=1,
                col=column,
            )
        deltas = theme.array(getattr(changes, f"delta_{name}")).mean(1)
        fig.add_trace(
            go.Bar(x=layers, y=deltas, name="Δ", showlegend=False, marker={"color": theme.PALETTE[2]}),
            row=2,
            col=column,
        )
        if changes.floor is not None:
            noise = theme.array(getattr(changes.floor, f"delta_{name}")).mean(1)
            fig.add_trace(theme.floor_marks(layers, noise, legend=column == 1), row=2, col=column)
    fig.update_traces(hovertemplate="%{x}<br>%{y:.4g}<extra>%{fullData.name}</extra>")
    for column, unit in enumerate(panels.values(), start=1):
        fig.update_yaxes(title=unit, row=1, col=column)
        fig.update_yaxes(title=f"Δ {unit}", row=2, col=column)
    subtitle = (
        f"{changes.before.lens} lens, answer “{theme.short(changes.before.answer.strip())}”, mean over its tokens"
    )
    theme.dress(fig, "The answer after each layer, before and after", theme.escape(subtitle), height=560)
    fig.update_xaxes(type="category")
    fig.update_xaxes(title="after layer", row=2)
    fig.update_yaxes(autorange="reversed", row=1, col=3)
    fig.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.08, "yanchor": "bottom"})
    return fig


def described(d: Decomposition) -> str:
    """Describe what is decomposed, the answer or foil, and the notes, in one escaped line."""
    foil = f" versus “{theme.short(d.versus.strip())}”" if d.versus else ""
    what = "logit difference" if d.versus else "logit"
    text = f"direct contributions by {d.by}, {what} of “{theme.short(d.answer.strip())}”{foil}, mean over its tokens"
    return theme.escape(". ".join([f"{text} [logits]", *d.notes]))


def component_bars(d: Decomposition) -> tuple[list[str], list[float]]:
    """Return names and mean values of the steps of a waterfall, in the order of the model, the remainder last.

    Args:
        d: Decomposition by component.

    Returns:
        Escaped labels, and logits; they sum to the mean of `d.total`.
    """
    labels, values = grouped_bars(d)
    return labels, values[0]


def grouped_bars(*sides: Decomposition) -> tuple[list[str], list[list[float]]]:
    """Return names of the components and the mean values of each decomposition, the same few bars for all.

    With more than `MAX_BARS` components, the heads of a layer become one bar `L{l}.heads`. If they are still too many,
    those with the largest value in any decomposition stay, and the others become one bar.

    Args:
        *sides: Decompositions by component, of models of one shape.
    """
    for d in sides:
        if d.by != "component":
            raise InputError(f"a waterfall needs a decomposition by 'component', not by {d.by!r}")
    names = [*sides[0].labels[0], *sides[0].remainder_labels]
    table = np.stack(
        [np.concatenate([theme.array(d.values).mean(-1), theme.array(d.remainder).mean(-1)]) for d in sides], axis=1
    )  # [component, side]
    if len(names) > MAX_BARS:
        keys = [f"{head[1]}.heads" if (head := _HEAD.match(name)) else name for name in names]
        grouped = list(dict.fromkeys(keys))
        table = np.stack([table[[key == name for key in keys]].sum(0) for name in grouped])
        table, names = theme.shortened(table, grouped, MAX_BARS - 1)
    return [theme.escape(name) for name in names], table.T.tolist()


def head_values(d: Decomposition) -> NDArray[np.float64]:
    """Return `[layer, head]` values, mean over the answer tokens, summed over source tokens if the view has them."""
    if d.by not in ("head", "source"):
        raise InputError(f"a head map needs a decomposition by 'head' or 'source', not by {d.by!r}")
    values = theme.array(d.values).mean(-1)
    return values.sum(2) if d.by == "source" else values


def head_heatmap(values: NDArray[np.float64]) -> go.Heatmap:
    """Build a layer × head map on the figure's shared colour axis, with `L{l}H{h}` on hover."""
    n_layers, n_heads = values.shape
    return go.Heatmap(
        z=values,
        x=list(range(n_heads)),
        y=list(range(n_layers)),
        coloraxis="coloraxis",
        hovertemplate="L%{y}H%{x}<br>%{z:+.4f} logits<extra></extra>",
    )


def head_axes(fig: go.Figure, values: NDArray[np.float64]) -> None:
    """Set axes with layers downwards and heads across; with many of them, only every few have a tick."""
    n_layers, n_heads = values.shape
    facets = len({trace.xaxis for trace in fig.data if trace.type == "heatmap"})
    fig.update_xaxes(title="head", dtick=-(-n_heads * facets // 32), tick0=0, showgrid=False, zeroline=False)
    fig.update_yaxes(autorange="reversed", dtick=-(-n_layers // 16), tick0=0, showgrid=False, zeroline=False)
    fig.update_layout(yaxis_title="layer")


def head_map_height(values: NDArray[np.float64]) -> int:
    """Compute a height in pixels at which every row of the map is readable."""
    return 220 + max(24 * min(values.shape[0], 12), 14 * values.shape[0])
