"""Put the noise baseline beside a measure, and before, after and Δ side by side, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from unpact_lens.results import Result


def beside_floor(frame: pd.DataFrame, floor: Result | None, columns: Sequence[str]) -> pd.DataFrame:
    """Insert `{column}_floor` after each named column if there is a noise baseline.

    Args:
        frame: Table of a result; it is changed and returned.
        floor: The same kind of result for the noise baseline, or None.
        columns: Names of the columns that get a neighbour.
    """
    return beside_frame(frame, None if floor is None else floor.to_frame(), columns)


def beside_frame(frame: pd.DataFrame, floor: pd.DataFrame | None, columns: Sequence[str]) -> pd.DataFrame:
    """Insert `{column}_floor` after each named column, from the table of the noise baseline."""
    if floor is not None:
        for column in columns:
            frame.insert(list(frame.columns).index(column) + 1, f"{column}_floor", floor[column].to_numpy())
    return frame


def before_after_delta(names: dict[str, Sequence[Any]], before: Tensor, after: Tensor) -> pd.DataFrame:
    """Make a table of row names and a measure before, after, and Δ = after − before."""
    values = {"before": before, "after": after, "delta": after - before}
    return pd.DataFrame({**names, **{side: v.tolist() for side, v in values.items()}})
