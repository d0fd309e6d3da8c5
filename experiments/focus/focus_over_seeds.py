"""Average the measures of focus over facts and seeds, contrast groups of facts, and make the tables of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.focus.focus_shift import FocusShift
from unpact_lens.errors import InputError
from unpact_lens.stats.bootstrap import quantiles, resampled_means
from unpact_lens.study.pooled import with_interval

CONTRAST = "forget - retain"
"""Group of the rows that hold the difference between forget facts and retain facts."""

SHARES = {
    "share_key": "back_key", "share_random": "back_random", "share_all": "back_all", "share_pattern": "back_pattern",
    "share_pattern_random": "back_pattern_random",
}  # fmt: skip
"""Shares of the lost log-probability, and the measure of each fact that is summed for them."""


def focus_over_seeds(shifts: Sequence[FocusShift]) -> pd.DataFrame:
    """Average each measure of each model and group over facts and seeds, with 95% CIs.

    1. Average each fact over the seeds, then average over facts; the bootstrap draws subjects and seeds.
    2. Compute the `SHARES`: the sum of the nats that come back over the sum of the nats that are lost. They are
       undefined if the 95% CI of the loss includes 0.
    3. Compute `share_net` and `share_pattern_net`: the shares of the KeyTokens minus those of random tokens.
    4. Compute the group `"forget - retain"`: differences of two means, with facts drawn separately.

    Rows with a `head` hold `HEAD_MEASURES`.

    Args:
        shifts: Comparisons of a `FocusStudy`.

    Returns:
        Columns `model, group, head, measure, seeds, n, mean, low, high`.

    Raises:
        InputError: If there are no comparisons, or the seeds of a model are on different facts.
    """
    if not shifts:
        raise InputError("no models to compare; give at least one FocusShift")
    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(s.model for s in shifts):
        groups = dict.fromkeys(s.group for s in shifts if s.model == model)
        for group in groups:
            rows += _group_rows([s for s in shifts if (s.model, s.group) == (model, group)])
        if {"forget", "retain"} <= set(groups):
            rows += _contrasts(*([s for s in shifts if (s.model, s.group) == (model, g)] for g in ("forget", "retain")))
    return pd.DataFrame(rows)


def _group_rows(seeds: Sequence[FocusShift]) -> list[dict[str, Any]]:
    first = seeds[0]
    if any(s.ids != first.ids for s in seeds):
        raise InputError(f"{first.model}, {first.group}: its seeds are on different facts; measure the same facts")
    same: dict[str, Any] = {"model": first.model, "group": first.group, "seeds": len(seeds)}
    rows = [
        {**same, "head": "", "measure": name, **_summary(_stack(seeds, name), first.subjects)} for name in first.values
    ]
    rows += [{**same, "head": "", "measure": name, **found} for name, found in _shares(seeds).items()]
    layers, heads = next(iter(first.heads.values())).shape[1:]
    for name in first.heads:
        values = torch.stack([s.heads[name] for s in seeds])
        rows += [
            {**same, "head": f"L{l}H{h}", "measure": name, **_summary(values[:, :, l, h], first.subjects)}
            for l in range(layers)
            for h in range(heads)
        ]
    return rows


def _stack(seeds: Sequence[FocusShift], name: str) -> Float[Tensor, "seed item"]:
    return torch.stack([s.values[name] for s in seeds])


def _mean(values: Float[Tensor, "seed item"]) -> float:
    """Average over facts the mean over the seeds in which the fact is defined."""
    return float(values.nanmean(0).nanmean())


def _summary(values: Float[Tensor, "seed item"], subjects: Sequence[str]) -> dict[str, float | int]:
    low, high = quantiles(resampled_means(values, subjects))
    return {"n": int((~values.isnan()).any(0).sum()), "mean": _mean(values), "low": low, "high": high}


def _shares(seeds: Sequence[FocusShift]) -> dict[str, dict[str, float | int]]:
    """Compute ratios of means; numerator and denominator use the same draws of subjects and seeds."""
    subjects, lost = seeds[0].subjects, _stack(seeds, "lost")
    surely_lost = quantiles(resampled_means(lost, subjects))[0] > 0
    parts = {share: _stack(seeds, name) for share, name in SHARES.items()}
    parts["share_net"] = parts["share_key"] - parts["share_random"]
    parts["share_pattern_net"] = parts["share_pattern"] - parts["share_pattern_random"]
    found: dict[str, dict[str, float | int]] = {}
    for share, back in parts.items():
        # A fact without other tokens to draw has no random share, so its loss is left out of that share.
        paired = lost.masked_fill(back.isnan(), float("nan"))
        value = low = high = float("nan")
        if surely_lost:
            low, high = quantiles(resampled_means(back, subjects) / resampled_means(paired, subjects))
            value = _mean(back) / _mean(paired)
        found[share] = {"n": int((~paired.isnan()).any(0).sum()), "mean": value, "low": low, "high": high}
    return found


def _contrasts(forget: Sequence[FocusShift], retain: Sequence[FocusShift]) -> list[dict[str, Any]]:
    rows = []
    for name in forget[0].values:
        one, two = _stack(forget, name), _stack(retain, name)
        # Two seeds, because the two groups hold different facts and are drawn separately.
        drawn = resampled_means(one, forget[0].subjects, seed=0) - resampled_means(two, retain[0].subjects, seed=1)
        low, high = quantiles(drawn)
        rows.append(
            {
                "model": forget[0].model, "group": CONTRAST, "seeds": len(forget), "head": "", "measure": name,
                "n": one.shape[1], "mean": _mean(one) - _mean(two), "low": low, "high": high,
            }
        )  # fmt: skip
    return rows


def focus_table(frame: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Make a table with one row per model and `mean [low, high]` of some measures; undefined cells are empty.

    Args:
        frame: Table of `focus_over_seeds`.
        columns: Pairs of group and measure, in the order shown.

    Raises:
        InputError: If a pair is not in the table.
    """
    return _wide(frame, [(f"{m}, {g}", {"group": g, "measure": m, "head": ""}) for g, m in columns])


SHOWN_HEADS = 8
"""Number of heads in a table."""


def changed_heads(frame: pd.DataFrame, measure: str, group: str = "forget", most: int = SHOWN_HEADS) -> list[str]:
    """Select the heads with the largest absolute mean of a measure under any model, in the order of the model.

    Args:
        frame: Table of `focus_over_seeds`.
        measure: Name in `HEAD_MEASURES`.
        group: Group of facts.
        most: Number of heads.

    Raises:
        InputError: If the measure or group is not in the table.
    """
    rows = frame[(frame["group"] == group) & (frame["measure"] == measure) & frame["head"].fillna("").ne("")]
    if rows.empty:
        raise InputError(f"the table has no heads with group {group!r} and measure {measure!r}")
    largest = rows["mean"].abs().groupby(rows["head"], sort=False).max()
    kept = set(largest.nlargest(most).index)
    return [head for head in largest.index if head in kept]


def heads_table(
    frame: pd.DataFrame, measure: str, group: str = "forget", *, by: str = "", most: int = SHOWN_HEADS
) -> pd.DataFrame:
    """Make a table of the heads that change most: one row per model, one column per head, `mean [low, high]`.

    Args:
        frame: Table of `focus_over_seeds`.
        measure: Name in `HEAD_MEASURES`.
        group: Group of facts.
        by: Measure by which heads are selected; the shown measure if empty.
        most: Number of heads; see `changed_heads`.

    Raises:
        InputError: If the measure or group is not in the table.
    """
    heads = changed_heads(frame, by or measure, group, most)
    return _wide(frame, [(h, {"group": group, "measure": measure, "head": h}) for h in heads])


def _wide(frame: pd.DataFrame, columns: Sequence[tuple[str, dict[str, str]]]) -> pd.DataFrame:
    frame = frame.fillna({"head": ""})  # a CSV file gives NaN for empty text
    table: dict[str, dict[str, str]] = {m: {} for m in dict.fromkeys(frame["model"])}
    for title, wanted in columns:
        hits = frame[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        if hits.empty:
            raise InputError(f"the table has no rows with {', '.join(f'{k} {v!r}' for k, v in wanted.items())}")
        for row in hits.to_dict("records"):
            table[row["model"]][title] = with_interval(row["mean"], row["low"], row["high"])
    return pd.DataFrame([{"model": m, **cells} for m, cells in table.items()]).fillna("")


FOCUS_TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "overlap": lambda frame: focus_table(
        frame, [(group, "overlap") for group in ("forget", "paraphrase", "retain", CONTRAST)]
    ),
    "contributions": lambda frame: focus_table(
        frame,
        [
            ("forget", m)
            for m in ("mass_shift", "mass_shift_random", "score_before", "score_shift", "score_shift_random")
        ],
    ),
    "mediation": lambda frame: focus_table(
        frame, [("forget", m) for m in ("lost", *SHARES, "share_net", "share_pattern_net")]
    ),
    "heads": lambda frame: heads_table(frame, "moves_shift"),
    "heads-random": lambda frame: heads_table(frame, "moves_shift_random", by="moves_shift"),
    "attention": lambda frame: heads_table(frame, "attends_shift"),
}
"""Tables of the experiment's page, by the name of their block; each is made from `focus_over_seeds`."""
