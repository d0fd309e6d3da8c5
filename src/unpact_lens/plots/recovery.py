"""Plot what each probe recovers, next to the control under the same probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from unpact_lens.plots import theme
from unpact_lens.plots.figure import Figure, finished

if TYPE_CHECKING:
    from unpact_lens.recovery import Recovery
    from unpact_lens.stats.estimate import Rate

FAMILIES = {"emphasis": "emphasis", "control": "control prompts", "probe": "stronger probes"}
"""Groups of rows from top to bottom, with their labels."""


@finished
def cell_recovery(cell: Any) -> Figure:
    """Plot the recovery of one cell of a study, titled by its method and seed.

    Args:
        cell: Cell with `method`, `seed` and `recovery`.
    """
    return recovery_bars(cell.recovery, name=f"{cell.method}, seed {cell.seed}")


@finished
def recovery_bars(recovery: Recovery, *, name: str = "") -> go.Figure:
    """Plot the fraction of the common set that is right under each row: unlearned model and control, with Wilson CIs.

    The control is the retrained model under the same row, or never-known facts if there is none. An undefined rate (no
    fact could be asked) has no bar, and its label says so.

    Args:
        recovery: Result of `unpact_lens.recover`.
        name: Name of the unlearned model, for the title.
    """
    rows = [p for family in FAMILIES for p, f in zip(recovery.probes, recovery.families, strict=True) if f == family]
    family = dict(zip(recovery.probes, recovery.families, strict=True))
    after = {p: recovery.rate(p) for p in rows}
    reference = "never-known facts" if recovery.right_control is None else "retrained model"
    beside = {p: recovery.never_rate(p) if recovery.right_control is None else recovery.control_rate(p) for p in rows}
    labels = [_label(recovery, p, after[p]) for p in rows]
    groups = [FAMILIES[family[p]] for p in rows]
    title = "What comes back" + (f" after {theme.escape(name)}" if name else "")
    fig = theme.figure(title, _subtitle(recovery))
    for k, (series, rates) in enumerate({"unlearned model": after, reference: beside}.items()):
        fig.add_trace(_bars(series, groups, labels, list(rates.values()), theme.PALETTE[1] if k == 0 else theme.MUTED))
    fig.update_layout(
        barmode="group",
        bargap=0.25,
        height=200 + 34 * len(rows),
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
    )
    fig.update_xaxes(title="fraction of the common set answered right, 95% Wilson interval", range=[0, 1.02])
    fig.update_yaxes(autorange="reversed", showgrid=False, dividercolor=theme.GRID)
    return fig


def _bars(name: str, groups: list[str], labels: list[str], rates: list[Rate], colour: str) -> go.Bar:
    values = theme.array([rate.value for rate in rates])
    return go.Bar(
        name=name,
        y=[groups, labels],
        x=values,
        orientation="h",
        marker={"color": colour},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": theme.array([rate.high for rate in rates]) - values,
            "arrayminus": values - theme.array([rate.low for rate in rates]),
            "color": theme.INK,
            "thickness": 1,
            "width": 3,
        },
        customdata=[f"{rate.count:g} of {rate.n}" for rate in rates],
        hovertemplate="%{y}<br>%{x:.2f} (%{customdata})<extra>%{fullData.name}</extra>",
    )


def _label(recovery: Recovery, probe: str, rate: Rate) -> str:
    """Return a readable name of the row, with its status."""
    name = theme.probe_name(probe)
    if probe == recovery.headline:
        name = f"{name} ★"
    if probe in recovery.set_apart:
        name = f"{name} (excluded)"
    if probe in recovery.settings.get("without_effect", {}):
        name = f"{name} (changes nothing of this model)"
    return theme.escape(name if rate.n else f"{name} (undefined)")


def _subtitle(recovery: Recovery) -> str:
    key = "oracle-assisted KeyTokens" if recovery.oracle else "answer-free KeyTokens"
    if recovery.settings.get("key_tokens") == "after":
        key = f"{key} of the unlearned model"
    apart = "; excluded: the original model cannot answer under it" if recovery.set_apart else ""
    return theme.escape(f"common set of {recovery.n_common} of {len(recovery.items)} facts; {key}; ★ headline{apart}")
