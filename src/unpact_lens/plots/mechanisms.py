"""Draw path effects and ablations: direct and indirect effects of heads and source tokens, and ablated parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.decomposition import head_map_height
from unpact_lens.plots.figure import finished

HEADS, TOKENS = 32, 24
"""Numbers of heads and source tokens of a map of path effects, the strongest; other tokens are summed."""

if TYPE_CHECKING:
    from unpact_lens.decomposition import Ablation, PathEffects


@finished
def path_effects(effects: PathEffects) -> go.Figure:
    """Draw the effect of each head's reading of each source token on the logit: direct, indirect, total; one scale."""
    names = ("direct", "indirect", "total")
    table = np.stack([theme.array(getattr(effects, name)).mean(-1) for name in names])  # [effect, head, source]
    chosen, _ = theme.strongest(table.transpose(1, 0, 2), HEADS)
    heads = [effects.heads[k] for k in chosen]
    shown, tokens = theme.shortened(table[:, chosen].transpose(2, 0, 1), theme.token_labels(effects.tokens), TOKENS)
    maps = {name: shown[:, k].T for k, name in enumerate(names)}
    fig = make_subplots(1, 3, shared_yaxes=True, subplot_titles=list(maps), horizontal_spacing=0.02)
    for column, values in enumerate(maps.values(), start=1):
        fig.add_trace(
            go.Heatmap(
                z=values,
                x=tokens,
                y=[f"L{layer}H{head}" for layer, head in heads],
                coloraxis="coloraxis",
                hovertemplate="%{y} from %{x}<br>%{z:+.4f} logits<extra></extra>",
            ),
            row=1,
            col=column,
        )
    frozen = " and ".join(effects.frozen) or "nothing"
    theme.dress(
        fig,
        "Direct and indirect effects of each head and source token",
        theme.escape(f"logits of “{theme.short(effects.answer.strip())}”, mean over its tokens; frozen: {frozen}"),
        height=220 + 18 * len(heads),
        coloraxis=theme.diverging_axis(theme.symmetric_limit([table]), "logits"),
    )
    theme.token_axis(fig, tokens, 3)
    fig.update_xaxes(title="source token")
    fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return fig


@finished
def ablation_map(ablation: Ablation) -> go.Figure:
    """Draw the effect of each part on the answer's mean log-probability; hover shows the spread over resamples."""
    values = theme.array(ablation.values)
    title = f"Effect of each {ablation.what} on the answer"
    fig = theme.figure(
        title,
        theme.escape(
            f"mean log-probability of “{theme.short(ablation.answer.strip())}” with it minus without it [nats]; "
            f"{ablation.how} ablation at every position"
        ),
        height=head_map_height(values),
        coloraxis=theme.diverging_axis(theme.symmetric_limit([values]), "nats"),
    )
    if values.shape[1] == 1:
        bars = theme.signed_bars(values[:, 0], ablation.labels[0], "%{y}<br>%{x:+.4f} nats<extra></extra>")
        fig.add_trace(bars)
        fig.update_xaxes(title="nats")
        fig.update_yaxes(type="category", autorange="reversed", showgrid=False)
        return fig
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
