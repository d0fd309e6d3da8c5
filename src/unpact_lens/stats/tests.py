"""Compute p-values of paired outcomes and adjust them for multiple comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping

from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test
from statsmodels.stats.multitest import multipletests

from unpact_lens.errors import InputError


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute McNemar's exact two-sided p-value.

    Args:
        only_first: Pairs where only the first event occurred.
        only_second: Pairs where only the second event occurred.

    Returns:
        The p-value; 1 if there is no such pair.

    Raises:
        InputError: If a number of pairs is negative or above 2**53.

    Source: McNemar 1947, through statsmodels.
    """
    for name, count in (("only_first", only_first), ("only_second", only_second)):
        if not 0 <= count <= 2**53:
            raise InputError(f"{name}={count}; give a number of pairs of at least 0")
    return float(mcnemar_test([[0, only_first], [only_second, 0]], exact=True).pvalue)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Adjust p-values for multiple comparisons by Holm's step-down procedure.

    Args:
        p_values: P-value of each comparison by name. None and NaN are undefined: they are returned unchanged and are
            not counted as comparisons.

    Returns:
        Adjusted p-values by the same names.

    Source: Holm 1979, through statsmodels.
    """
    defined = {name: p for name, p in p_values.items() if p is not None and not math.isnan(p)}
    adjusted = multipletests(list(defined.values()), method="holm")[1] if defined else []
    return {**p_values, **{name: float(p) for name, p in zip(defined, adjusted, strict=True)}}
