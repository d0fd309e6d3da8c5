"""Draw contributions of prompt tokens: maps, original | unlearned | Δ, and inline coloured text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.errors import InputError
from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unpact_lens.attribution import Attribution, Faithfulness, Interactions, MethodComparison, Sensitivity

UNITS = {"log_prob": "nats", "logit": "logits", "logit_diff": "logits"}
"""Unit of a contribution for targets whose name is not the unit itself."""

TOP = 40
"""Number of tokens that a map shows; the others are summed in one row."""

MEAN = "mean"
"""Label of the last column of a token map: the mean over answer tokens, which is the contribution itself."""


@finished
def token_heatmap(attribution: Attribution, *, top: int = TOP) -> go.Figure:
    """Draw the contribution of each prompt token (rows) to each answer token (columns), and the mean (last column).

    An answer of one token has one bar for each prompt token.

    Args:
        attribution: Attribution of one prompt and answer.
        top: Number of rows: the tokens with the largest contributions. The last row is the sum of all others.

    Returns:
        One heat map, with colours centred on 0, or bars.
    """
    values, rows = theme.shortened(_with_mean(attribution), theme.token_labels(attribution.tokens), top)
    fig = theme.figure("Contribution of each prompt token", described(attribution))
    fig.update_layout(height=_map_height(len(rows)))
    if values.shape[1] == 1:
        fig.add_trace(theme.signed_bars(values[:, 0], rows, "%{y}<br>%{x:+.3f}<extra></extra>"))
        fig.update_xaxes(title=unit(attribution))
        fig.update_yaxes(autorange="reversed", type="category", showgrid=False)
        return fig
    fig.add_trace(_map(rows, attribution.answer_tokens, values, "coloraxis"))
    limit = theme.symmetric_limit([attribution.per_answer_token])  # the sum of the rest may lie beyond
    fig.update_layout(coloraxis=theme.diverging_axis(limit, unit(attribution)))
    _token_axes(fig)
    return fig


@finished
def token_triptych(before: Attribution, after: Attribution, *, top: int = TOP) -> go.Figure:
    """Draw one prompt as original | unlearned | Δ = unlearned − original, on one symmetric scale.

    Args:
        before: Contributions in the original model.
        after: Contributions in the unlearned model, for the same prompt, answer, method and target.
        top: Number of rows, as in `token_heatmap`; the same tokens in every map.

    Returns:
        Three heat maps in the form of `token_heatmap`.

    Raises:
        InputError: If the two differ in prompt, answer, method or target.
    """
    same_example(before, after)
    sides = np.stack([_with_mean(before), _with_mean(after)], axis=1)  # [prompt, side, answer + 1]
    limit = theme.symmetric_limit([sides, sides[:, 1] - sides[:, 0]])  # the sum of the rest may lie beyond
    sides, rows = theme.shortened(sides, theme.token_labels(before.tokens), top)
    maps = [sides[:, 0], sides[:, 1], sides[:, 1] - sides[:, 0]]
    fig = make_subplots(1, 3, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=["before", "after", "Δ"])
    for column, values in enumerate(maps, start=1):
        fig.add_trace(_map(rows, before.answer_tokens, values, "coloraxis"), row=1, col=column)
    theme.dress(fig, "Contribution of each prompt token, before and after", described(before))
    fig.update_layout(
        coloraxis=theme.diverging_axis(limit, unit(before)),
        height=_map_height(len(rows)) + 24,
    )
    _token_axes(fig)
    return fig


def html_tokens(attribution: Attribution, *, limit: float | None = None) -> str:
    """Render the prompt as inline text, each token coloured by its contribution, for notebooks and reports.

    Args:
        attribution: Attribution of one prompt and answer.
        limit: End of the colour scale, in the contribution's unit. If None, the largest absolute contribution.

    Returns:
        One `<div>` with its own styles; all text from the model is escaped.
    """
    return html_scores(attribution.tokens, attribution.scores, unit=unit(attribution), limit=limit)


def html_triptych(before: Attribution, after: Attribution) -> str:
    """Render one prompt as inline text for the original model, the unlearned model and Δ, on one symmetric scale.

    Raises:
        InputError: If the two differ in prompt, answer, method or target.
    """
    same_example(before, after)
    rows = {"before": theme.array(before.scores), "after": theme.array(after.scores)}
    rows["Δ"] = rows["after"] - rows["before"]
    limit = theme.symmetric_limit(rows.values())
    lines = (
        f'<div style="display:flex;gap:.75em;align-items:baseline">'
        f'<span style="flex:0 0 3.6em;font-size:.85em;opacity:.75">{name}</span>'
        f"{html_scores(before.tokens, scores, unit=unit(before), limit=limit)}</div>"
        for name, scores in rows.items()
    )
    return "".join(lines)


def html_scores(tokens: Sequence[str], scores: Any, *, unit: str, limit: float | None = None) -> str:
    """Render tokens as inline text, coloured by their scores.

    Args:
        tokens: Decoded tokens.
        scores: One number for each token.
        unit: Unit of the scores, shown in each tooltip.
        limit: End of the colour scale. If None, the largest absolute score.

    Returns:
        One `<div>`; token text is escaped, spaces are visible.

    Raises:
        InputError: If tokens and scores differ in number.
    """
    values = theme.array(scores)
    if len(tokens) != len(values):
        raise InputError(f"{len(tokens)} tokens but {len(values)} scores; give one score for each token")
    limit = limit or theme.symmetric_limit([values])
    spans = []
    for i, (token, value) in enumerate(zip(tokens, values, strict=True)):
        colour, ink = theme.diverging_colour(float(value), limit)
        shown = html.escape(theme.visible(token))
        spans.append(
            f'<span title="{shown}_{i}: {value:+.3f} {html.escape(unit)}" style="background:{colour};color:{ink};'
            f'padding:.1em .2em;border-radius:.2em;white-space:pre-wrap">{shown}</span>'
        )
        spans.append("<br>" if token.endswith("\n") else "<wbr>")
    return (
        '<div style="font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;line-height:1.9;min-width:0;'
        f'overflow-wrap:anywhere">{"".join(spans)}</div>'
    )


@finished
def interactions(found: Interactions) -> go.Figure:
    """Draw the cost of removing two units beyond that of each alone: positive is redundant, negative only together."""
    labels = theme.token_labels(found.tokens)
    measured = UNITS.get(found.target, found.target)
    fig = theme.figure(
        "Pairwise interactions of the prompt's units",
        theme.escape(
            f"C of both − C of one − C of the other [{measured}], by {found.units}; positive: redundant, negative: "
            f"work only together; answer “{theme.short(found.answer.strip())}”"
        ),
    )
    fig.add_trace(
        go.Heatmap(
            z=theme.array(found.matrix),
            x=labels,
            y=labels,
            customdata=theme.array(found.pair),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate="%{y} with %{x}<br>interaction %{z:+.3f}<br>together %{customdata:+.3f}<extra></extra>",
        )
    )
    fig.update_layout(
        coloraxis=theme.diverging_axis(theme.symmetric_limit([found.matrix]), measured),
        height=_map_height(len(labels)) + 40,
    )
    _token_axes(fig)
    return fig


@finished
def sensitivity(found: Sensitivity) -> go.Figure:
    """Draw each measure of the KeyTokens against the rule that chooses them, as item means, and the rules' overlap.

    A measure that is defined for no item is omitted, e.g. those that need an unlearned model if none was given.
    """
    means = {name: _mean_over_items(values) for name, values in found.measures.items()}
    shown = {name: values for name, values in means.items() if np.isfinite(values).any()}
    labels = [theme.escape(label) for label in found.labels]
    fig = make_subplots(
        1, len(shown) + 1, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[1.0] * len(shown) + [1.6],
        subplot_titles=[*(name.replace("_", " ") for name in shown), "overlap of the rules"],
    )  # fmt: skip
    for column, (name, values) in enumerate(shown.items(), start=1):
        fig.add_trace(
            go.Scatter(
                x=values,
                y=labels,
                mode="markers",
                marker={"size": 9, "color": theme.PALETTE[0]},
                hovertemplate=f"%{{y}}<br>{theme.escape(name)} %{{x:.3f}}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        fig.update_xaxes(range=None if name == "count" else [-0.05, 1.05], rangemode="tozero", row=1, col=column)
    fig.add_trace(_agreement(found.agreement, labels, "coloraxis"), row=1, col=len(shown) + 1)
    theme.dress(
        fig,
        "KeyTokens under different rules",
        f"means over {found.items} prompts; overlap: Jaccard of the KeyTokens of two rules",
        height=200 + 28 * len(labels),
    )
    fig.update_layout(showlegend=False, coloraxis=_share_axis("Jaccard"))
    fig.update_yaxes(type="category", autorange="reversed")
    fig.update_xaxes(tickangle=-45, row=1, col=len(shown) + 1)
    return fig


@finished
def faithfulness_curves(found: Faithfulness | Sequence[Faithfulness]) -> go.Figure:
    """Draw the target as the highest ranked units are removed (deletion), and as only they are kept (insertion).

    Args:
        found: Faithfulness of one method, or of several to compare. The curves are means over items.
    """
    several = [found] if not isinstance(found, Sequence) else list(found)
    fig = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=["deletion", "insertion"])
    for k, one in enumerate(several):
        colour, symbol = theme.series_style(k)
        for column, values in enumerate((one.deletion, one.insertion), start=1):
            fig.add_trace(
                go.Scatter(
                    x=theme.array(one.fractions),
                    y=_mean_over_items(values.T),
                    name=theme.escape(one.method.replace("_", " ")),
                    legendgroup=one.method,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": colour},
                    marker={"symbol": symbol, "size": 6},
                    hovertemplate="%{x:.0%}: %{y:.3f}<extra>%{fullData.name}</extra>",
                ),
                row=1,
                col=column,
            )
    target = several[0].target
    theme.dress(
        fig,
        "Faithfulness of the ranking",
        theme.escape(f"{target.replace('_', ' ')} [{UNITS.get(target, target)}], mean over {len(several[0].deletion)} "
                     "prompts; a faithful ranking falls fast under deletion and rises fast under insertion"),
        height=440,
    )  # fmt: skip
    fig.update_xaxes(title="fraction of the units removed", tickformat=".0%", row=1, col=1)
    fig.update_xaxes(title="fraction of the units present", tickformat=".0%", row=1, col=2)
    fig.update_yaxes(title=UNITS.get(target, target), row=1, col=1)
    return fig


@finished
def method_comparison(found: MethodComparison) -> go.Figure:
    """Draw a comparison of attribution methods: agreement of their rankings, and faithfulness (AOPC)."""
    labels = [theme.escape(m.replace("_", " ")) for m in found.methods]
    aopc = [float(np.nanmean(theme.array(f.aopc))) for f in found.faithfulness]
    fig = make_subplots(
        1, 3, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[0.38, 0.38, 0.24],
        subplot_titles=["Spearman", f"Jaccard of the top {found.k}", "AOPC"],
    )  # fmt: skip
    fig.add_trace(_agreement(found.spearman, labels, "coloraxis"), row=1, col=1)
    fig.add_trace(_agreement(found.jaccard, labels, "coloraxis2"), row=1, col=2)
    fig.add_trace(
        go.Bar(
            x=aopc,
            y=labels,
            orientation="h",
            marker={"color": theme.PALETTE[0]},
            customdata=np.column_stack([theme.array(found.stability), theme.array(found.seconds)]),
            hovertemplate="%{y}<br>AOPC %{x:.3f}<br>stability %{customdata[0]:.2f}<br>"
            "%{customdata[1]:.3f} s a prompt<extra></extra>",
        ),
        row=1,
        col=3,
    )
    target = found.faithfulness[0].target if found.faithfulness else "log_prob"
    theme.dress(
        fig,
        "Comparison of attribution methods",
        theme.escape(f"{found.items} prompts, by {found.units}; AOPC [{UNITS.get(target, target)}]: mean loss as the "
                     "highest ranked units are removed, larger is more faithful"),
        height=240 + 28 * len(labels),
    )  # fmt: skip
    fig.update_layout(
        coloraxis={**theme.diverging_axis(1.0, ""), "showscale": False},
        coloraxis2={**_share_axis(""), "showscale": False},
        showlegend=False,
    )
    fig.update_yaxes(type="category", autorange="reversed")
    for column in (1, 2):
        fig.update_xaxes(type="category", tickangle=-45, showgrid=False, row=1, col=column)
    return fig


def unit(attribution: Attribution) -> str:
    """Return the unit of the contributions: nats for log-probabilities, logits, or probability."""
    return UNITS.get(attribution.target, attribution.target)


def described(attribution: Attribution) -> str:
    """Describe method, units, target and answer in one escaped line, for a subtitle."""
    method = attribution.method.replace("_", " ")
    answer = theme.short("".join(attribution.answer_tokens).strip())
    return theme.escape(
        f"{method} by {attribution.units}, target {attribution.target.replace('_', ' ')} [{unit(attribution)}], "
        f"answer “{theme.visible(answer).replace('␣', ' ')}”"
    )


def same_example(before: Attribution, after: Attribution) -> None:
    """Refuse two attributions whose difference has no meaning.

    Raises:
        InputError: If they differ in prompt, answer, method or target. The message names the first difference.
    """
    for name in ("tokens", "answer_tokens", "method", "target"):
        ours, theirs = getattr(before, name), getattr(after, name)
        if ours != theirs:
            raise InputError(
                f"before and after differ in {name}: {theme.short(repr(ours))} and {theme.short(repr(theirs))}; "
                "give attributions of the same prompt, answer, method and target"
            )


def _with_mean(attribution: Attribution) -> NDArray[np.float64]:
    """Return `[prompt, answer + 1]`: the contributions to each answer token, and their mean.

    Only the mean is returned if the answer is one token, or the target is one number for the whole answer.
    """
    if attribution.per_answer_token.shape[1] != len(attribution.answer_tokens) or len(attribution.answer_tokens) == 1:
        return theme.array(attribution.scores)[:, None]
    return np.column_stack([theme.array(attribution.per_answer_token), theme.array(attribution.scores)])


def _map(rows: Sequence[str], answer: Sequence[str], values: NDArray[np.float64], axis: str) -> go.Heatmap:
    """Build the heat map of one attribution."""
    return go.Heatmap(
        z=values,
        x=[*theme.token_labels(answer), MEAN][-values.shape[1] :],
        y=list(rows),
        coloraxis=axis,
        xgap=1,
        ygap=1,
        hovertemplate="%{y} → %{x}<br>%{z:+.3f}<extra></extra>",
    )


def _agreement(values: Any, labels: list[str], axis: str) -> go.Heatmap:
    """Build a square heat map of pairwise agreement, with the numbers written in."""
    return go.Heatmap(
        z=theme.array(values),
        x=labels,
        y=labels,
        coloraxis=axis,
        texttemplate="%{z:.2f}" if len(labels) <= 12 else None,
        xgap=1,
        ygap=1,
        hovertemplate="%{y} and %{x}<br>%{z:.3f}<extra></extra>",
    )


def _share_axis(title: str) -> dict[str, Any]:
    """Build a colour axis from 0 to 1."""
    return {**theme.diverging_axis(1.0, title), "colorscale": theme.SEQUENTIAL, "cmin": 0.0}


def _mean_over_items(values: Any) -> NDArray[np.float64]:
    """Average each row over its defined entries; NaN for a row without any."""
    rows = theme.array(values)
    defined = np.isfinite(rows)
    counts = defined.sum(1)
    return np.where(counts, np.where(defined, rows, 0.0).sum(1) / np.maximum(counts, 1), np.nan)


def _token_axes(fig: go.Figure) -> None:
    """Order the rows from top to bottom and slant the column labels."""
    fig.update_yaxes(autorange="reversed", type="category", showgrid=False)
    fig.update_xaxes(type="category", showgrid=False)


def _map_height(rows: int) -> int:
    """Compute a height in pixels at which every row is readable, with room for title and slanted labels."""
    return 190 + max(22 * min(max(rows, 3), 20), 16 * rows)
