"""Does a ranking of units say what the model uses? Remove the highest ranked first, or let them alone remain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.result import Attribution, Faithfulness
from unpact_lens.attribution.scorer import Family, Scorer
from unpact_lens.attribution.targets import PLAIN
from unpact_lens.attribution.units import Example, example_of
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Encoded

POINTS = 21
"""Points of a curve, from no unit to all."""

BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Fractions of comprehensiveness and sufficiency, as in ERASER."""


def faithfulness(
    model: Any,
    attributions: Sequence[Attribution],
    *,
    target: str = "log_prob",
    bins: Sequence[float] = BINS,
    batch_tokens: int | None = None,
) -> Faithfulness:
    r"""Deletion and insertion curves, AOPC, comprehensiveness and sufficiency of one method's rankings.

    With $x_{-q}$ the prompt without the fraction $q$ of its units that rank highest and $x_{q}$ with only those:
    deletion is $v(x_{-q})$ and insertion $v(x_q)$ over q; AOPC the mean of $v(x) - v(x_{-q})$ over $q > 0$;
    comprehensiveness the mean of $v(x) - v(x_{-q})$ over the bins, sufficiency the mean of $v(x) - v(x_q)$. Units are
    deleted from the ids; at least one unit counts in each bin. Where removing all would leave nothing before the
    answer, that point is NaN and left out.

    Args:
        model: the model that the attributions are of.
        attributions: by one method.
        target: `"log_prob"`, `"prob"` (as in ERASER) or `"logit"`, whatever the attributions are of.
        bins: fractions above 0 and up to 1.
        batch_tokens: bound on the input tokens of one forward pass; None picks it from free memory.

    Returns:
        Curves on `POINTS` fractions, and the four numbers for each item, in the target's unit.

    Raises:
        InputError: if there are none, they are of several methods, or a name or bin is not accepted.

    Source: Samek et al. 2015, arXiv 1509.06321 (AOPC); Petsiuk et al. 2018, arXiv 1806.07421 (deletion, insertion);
    DeYoung et al. 2020, arXiv 1911.03429 (comprehensiveness, sufficiency).
    """
    if not attributions:
        raise InputError("no attributions are given; faithfulness needs at least one")
    methods = sorted({a.method for a in attributions})
    if len(methods) > 1:
        raise InputError(f"attributions are by {' and '.join(methods)}; give those of one method")
    if target not in PLAIN:
        raise InputError(f"unknown target {target!r}; {nearest(target, PLAIN)}")
    for q in bins:
        if not 0 < q <= 1:
            raise InputError(f"bin {q} is not a fraction above 0 and up to 1")
    examples = [example_of(a) for a in attributions]
    scorer = Scorer(model, PLAIN[target], batch_tokens)
    paths = [prefixes(e, a.scores) for e, a in zip(examples, attributions, strict=True)]
    families: list[Family] = [
        [e.encoded, *(row for row in (*gone, *kept) if row is not None)]
        for e, (gone, kept) in zip(examples, paths, strict=True)
    ]
    known = [
        {row: float(v.mean()) for row, v in zip(f, values, strict=True)}
        for f, values in zip(families, scorer(families), strict=True)
    ]
    fractions = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    deletion, insertion, numbers = [], [], []
    for (gone, kept), value in zip(paths, known, strict=True):
        down, up = _values(gone, value), _values(kept, value)
        deletion.append(on_grid(down, fractions))
        insertion.append(on_grid(up, fractions))
        loss_gone, loss_kept, n = down[0] - down, down[0] - up, len(down) - 1
        top = [max(1, round(q * n)) for q in bins]
        floor = up[~up.isnan()][0]
        numbers.append(
            (loss_gone[1:].nanmean(), (up - floor)[1:].nanmean(), loss_gone[top].nanmean(), loss_kept[top].nanmean())
        )
    aopc, gain, comprehensiveness, sufficiency = (torch.stack(column) for column in zip(*numbers, strict=True))
    return Faithfulness(
        method=methods[0],
        fractions=fractions,
        deletion=torch.stack(deletion),
        insertion=torch.stack(insertion),
        aopc=aopc,
        insertion_gain=gain,
        comprehensiveness=comprehensiveness,
        sufficiency=sufficiency,
        bins=tuple(bins),
        target=target,
    )


def prefixes(example: Example, scores: Float[Tensor, " unit"]) -> tuple[list[Encoded | None], list[Encoded | None]]:
    """The prompt without its k highest units, and with only those, for k from 0 to all.

    Units with equal scores go in the order of the prompt. None where nothing would stand before the answer.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    everything = range(len(order) + 1)
    return (
        [_without(example, order[:k]) for k in everything],
        [_without(example, order[k:]) for k in everything],
    )


def on_grid(curve: Float[Tensor, " step"], fractions: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
    """A curve over 0 to n units, read at fractions of n by linear interpolation; NaN next to what is undefined."""
    at = fractions * (len(curve) - 1)
    below = at.floor().long().clamp(max=len(curve) - 2)
    weight = at - below
    low, high = curve[below], curve[below + 1]
    # An endpoint that is met exactly does not depend on its undefined neighbour.
    return torch.where(weight == 0, low, torch.where(weight == 1, high, low + weight * (high - low)))


def _without(example: Example, units: Sequence[int]) -> Encoded | None:
    try:
        return example.without(units)
    except InputError:
        return None


def _values(rows: Sequence[Encoded | None], known: dict[Encoded, float]) -> Float[Tensor, " step"]:
    return torch.tensor([float("nan") if r is None else known[r] for r in rows], dtype=torch.float64)
