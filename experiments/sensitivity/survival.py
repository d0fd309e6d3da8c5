"""Compare the conclusions of each choice with the baseline: a conclusion survives with equal sign and significance."""

from __future__ import annotations

import pandas as pd

from experiments.sensitivity.choices import BASELINE_NAME
from unpact_lens.errors import InputError


def sign(low: float, high: float) -> str:
    """Return `"+"` or `"-"` for a significant value, `"0"` if the 95% CI includes 0, `""` if it is undefined.

    >>> sign(0.1, 0.3), sign(-0.2, 0.1), sign(float("nan"), float("nan"))
    ('+', '0', '')
    """
    if pd.isna(low) or pd.isna(high):
        return ""
    return "+" if low > 0 else "-" if high < 0 else "0"


def survival(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `sign`, `was` (the sign under the baseline) and `survives`.

    Args:
        frame: Rows of `dimension, choice, conclusion, method, n, value, low, high`, including the baseline's.

    Raises:
        InputError: If a conclusion has no row of the baseline.
    """
    signs = [sign(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)]
    keys = list(zip(frame["conclusion"], frame["method"], strict=True))
    at = frame["dimension"] == BASELINE_NAME
    was = {key: s for key, s, base in zip(keys, signs, at, strict=True) if base}
    missing = next((key for key in keys if key not in was), None)
    if missing is not None:
        raise InputError(f"conclusion {missing[0]!r} of {missing[1]!r} has no row of the baseline to compare with")
    return frame.assign(
        sign=signs, was=[was[key] for key in keys], survives=[s == was[k] for s, k in zip(signs, keys, strict=True)]
    )


def survival_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Make a table with one row per choice and one column per conclusion.

    A cell says how many conclusions survive and how the others changed. The row of the baseline gives the signs.

    Args:
        frame: Table of `survival`.
    """
    frame = frame.fillna({"sign": "", "was": ""})  # a CSV file gives NaN for empty text
    rows = []
    for (dimension, choice), part in frame.groupby(["dimension", "choice"], sort=False):
        row = {"varied": dimension, "choice": choice}
        for conclusion in dict.fromkeys(frame["conclusion"]):
            row[conclusion] = _cell(part[part["conclusion"] == conclusion], baseline=dimension == BASELINE_NAME)
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(part: pd.DataFrame, *, baseline: bool) -> str:
    if part.empty:
        return ""
    rows = part.to_dict("records")
    if baseline:
        return "; ".join(f"{r['method']} {r['sign'] or 'undefined'} ({r['value']:.2f})" for r in rows)
    lost = [r for r in rows if not r["survives"]]
    changed = [f"{r['method']} {r['was'] or 'undefined'} → {r['sign'] or 'undefined'}" for r in lost]
    return f"{len(rows) - len(lost)} of {len(rows)}" + (f": {'; '.join(changed)}" if lost else "")
