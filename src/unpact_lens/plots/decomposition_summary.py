"""Draw decompositions averaged over a data set, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from unpact_lens.errors import InputError
from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import MAX_BARS, head_axes, head_heatmap, head_map_height
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from unpact_lens.comparison import DecompositionSummary


@finished
def decomposition_summary(summary: DecompositionSummary, *, what: str | None = None) -> go.Figure:
    """Draw the mean of each component with its interval, or the mean of each head as a map.

    Args:
        summary: Average of decompositions by component or by head, logits.
        what: `"components"` or `"heads"`. If None, the view of the summary.

    Raises:
        InputError: If the view is neither by component nor by head, or is not the one asked for.
    """
    if what is not None and what != f"{summary.by}s":
        raise InputError(f"what={what!r}, but this is an average by={summary.by!r}; leave what out")
    mean, low, high, _ = summary.total.tolist()
    line = f"{len(summary.ids)} questions; logit {mean:+.2f} [{low:+.2f}, {high:+.2f}]; {summary.level:.0%} intervals"
    values = theme.array(summary.values)
    if summary.by == "component":
        fig = theme.figure("What each component adds to the answer's logit, over the data set", theme.escape(line))
        kept, rest = theme.strongest(values[:, 0], MAX_BARS)
        others = float(np.delete(values[:, 0], kept).sum())
        fig.add_trace(
            go.Bar(
                x=[*(theme.escape(summary.labels[0][k]) for k in kept), *([rest] if rest else [])],
                y=[*values[kept, 0], *([others] if rest else [])],
                error_y=theme.whiskers(values[kept]),
                marker={"color": theme.PALETTE[0]},
                hovertemplate="%{x}<br>%{y:+.3f} logits<extra></extra>",
            )
        )
        fig.update_xaxes(type="category")
        fig.update_yaxes(title="mean, logits")
        return fig
    if summary.by != "head":
        raise InputError(f"no figure of an average by={summary.by!r}; average by 'component' or 'head', or .to_frame()")
    means = values[..., 0]  # [layer, head]
    fig = theme.figure(
        "What each head adds to the answer's logit, over the data set",
        theme.escape(f"{line}; {theme.dot_legend(summary.level)}"),
        coloraxis=theme.diverging_axis(theme.symmetric_limit([means]), "logits"),
        height=head_map_height(means),
    )
    fig.add_trace(head_heatmap(means))
    fig.add_trace(theme.significant(summary.adjusted_p.get("values"), summary.level))
    head_axes(fig, means)
    return fig
