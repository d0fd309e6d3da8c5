"""Draw the value of each conclusion under each choice, and frame those whose sign or significance changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unpact_lens.plots import theme
from unpact_lens.plots.figure import finished

if TYPE_CHECKING:
    from numpy.typing import NDArray


@finished
def survival_map(frame: pd.DataFrame) -> go.Figure:
    """Draw one map per conclusion: rows are choices, columns are methods or pairs, `*` marks significant values.

    Cells whose sign or significance differs from the baseline have a red frame.

    Args:
        frame: Table of `survival`.
    """
    conclusions = list(dict.fromkeys(frame["conclusion"]))
    labelled = frame.assign(label=frame["dimension"] + " · " + frame["choice"])
    rows = list(dict.fromkeys(labelled["label"]))
    columns = [list(dict.fromkeys(labelled.loc[labelled["conclusion"] == c, "method"])) for c in conclusions]
    fig = make_subplots(
        1, len(conclusions), shared_yaxes=True, horizontal_spacing=0.02,
        column_widths=[len(c) / sum(map(len, columns)) for c in columns],
        subplot_titles=[theme.escape(c) for c in conclusions],
    )  # fmt: skip
    for k, (conclusion, methods) in enumerate(zip(conclusions, columns, strict=True)):
        part = labelled[labelled["conclusion"] == conclusion]

        def table(column: str, part: pd.DataFrame = part, methods: list[str] = methods) -> NDArray[np.float64]:
            wide = part.pivot(index="label", columns="method", values=column).reindex(index=rows, columns=methods)
            return wide.to_numpy(dtype=float)

        value, low, high, n = (table(c) for c in ("value", "low", "high", "n"))
        text, hover = np.full(value.shape, "", dtype=object), np.full(value.shape, "", dtype=object)
        for at in np.ndindex(*value.shape):
            if not np.isnan(value[at]):
                text[at] = f"{value[at]:.2f}{'*' * bool(low[at] > 0 or high[at] < 0)}"
                hover[at] = f"{low[at]:.2f} to {high[at]:.2f}, n = {n[at]:.0f}"
        fig.add_trace(
            go.Heatmap(
                z=value, x=[theme.escape(m) for m in methods], y=[theme.escape(r) for r in rows],
                text=text.tolist(), texttemplate="%{text}", colorscale=theme.DIVERGING, zmin=-1, zmax=1,
                showscale=k == 0, colorbar={"title": "value", "len": 0.5}, customdata=hover.tolist(),
                hovertemplate="%{y}<br>%{x}<br>%{z:.3f} (%{customdata})<extra></extra>",
            ),
            row=1, col=k + 1,
        )  # fmt: skip
        for row in part[~part["survives"].astype(bool)].itertuples():
            x, y = methods.index(row.method), rows.index(row.label)
            fig.add_shape(
                type="rect", x0=x - 0.47, x1=x + 0.47, y0=y - 0.45, y1=y + 0.45, line={"color": "#B00020", "width": 2},
                row=1, col=k + 1,
            )  # fmt: skip
    theme.dress(
        fig,
        "Which conclusions survive",
        "red frame: sign or significance differs from the baseline; *: significant (95% CI excludes 0)",
    )
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(tickangle=-40)
    fig.update_layout(height=260 + 27 * len(rows), width=420 + 66 * sum(map(len, columns)), margin={"l": 300, "b": 130})
    return fig
