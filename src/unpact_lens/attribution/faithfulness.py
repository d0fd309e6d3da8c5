"""Measure how faithful a ranking of units is: remove the highest ranked first, or keep only them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.result import Attribution
from unpact_lens.attribution.scorer import Family, Scorer
from unpact_lens.attribution.targets import PLAIN
from unpact_lens.attribution.units import Example, example_of
from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded
from unpact_lens.results import Result

if TYPE_CHECKING:
    import pandas as pd

POINTS = 21
"""Number of points of a curve, from no unit to all."""

BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Fractions of comprehensiveness and sufficiency, as in ERASER."""


@dataclass(frozen=True, eq=False)
class Faithfulness(Result):
    """Hold how the target changes when the units that a method ranks highest are removed, or kept alone.

    Attributes:
        method: Method of the ranking.
        fractions: Fractions of the units, from 0 to 1: the points of the curves.
        deletion: Target after removing that fraction, the highest ranked first. One row for each item, NaN if nothing
            would remain before the answer.
        insertion: Target with only that fraction present, the highest ranked first.
        aopc: Mean of v(x) - deletion over the curve; larger is more faithful.
        insertion_gain: Mean of insertion - v(no unit) over the curve; larger is more faithful.
        comprehensiveness: Mean loss when the top `bins` fractions are removed; larger is more faithful.
        sufficiency: Mean loss when only the top `bins` fractions remain; smaller is more faithful.
        bins: Fractions of the last two measures.
        target: Name of what is measured, e.g. `"log_prob"` (nats).
    """

    figure: ClassVar[str | None] = "attribution:faithfulness_curves"

    method: str
    fractions: Float[Tensor, " point"]
    deletion: Float[Tensor, "item point"]
    insertion: Float[Tensor, "item point"]
    aopc: Float[Tensor, " item"]
    insertion_gain: Float[Tensor, " item"]
    comprehensiveness: Float[Tensor, " item"]
    sufficiency: Float[Tensor, " item"]
    bins: tuple[float, ...]
    target: str

    def _brief(self) -> str:
        return joined(
            [self.method, f"AOPC {float(self.aopc.nanmean()):.3f}", f"{len(self.deletion)} prompts", self.target]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each item."""
        import pandas as pd

        names = ("aopc", "insertion_gain", "comprehensiveness", "sufficiency")
        return pd.DataFrame({name: getattr(self, name).tolist() for name in names})


def faithfulness(
    model: HookedModel,
    attributions: Sequence[Attribution],
    *,
    target: str = "log_prob",
    bins: Sequence[float] = BINS,
    batch_tokens: int | None = None,
) -> Faithfulness:
    r"""Compute deletion and insertion curves, AOPC, comprehensiveness and sufficiency of one method's rankings.

    $x_{-q}$ is the prompt without the fraction $q$ of its units that rank highest, and $x_{q}$ with only those.
    Deletion is $v(x_{-q})$ and insertion $v(x_q)$ over q. AOPC is the mean of $v(x) - v(x_{-q})$ over $q > 0$.
    Comprehensiveness is the mean of $v(x) - v(x_{-q})$ over the bins, sufficiency the mean of $v(x) - v(x_q)$. Units
    are deleted from the ids, and each bin removes at least one unit. If removing all units would leave nothing before
    the answer, that point is NaN and excluded.

    Args:
        model: Model that was attributed.
        attributions: Attributions by one method.
        target: `"log_prob"`, `"prob"` (as in ERASER) or `"logit"`, independent of the target of the attributions.
        bins: Fractions above 0 and at most 1.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is set from the free memory.

    Returns:
        Curves on `POINTS` fractions, and the four numbers for each item, in the target's unit.

    Raises:
        InputError: If there are no attributions, they are of several methods, or a name or bin is not accepted.

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
            raise InputError(f"bin {q} is not a fraction above 0 and at most 1")
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
        down, up = _values(gone, value), _values(kept, value)  # [n + 1], from no unit to all
        deletion.append(on_grid(down, fractions))
        insertion.append(on_grid(up, fractions))
        loss_gone, loss_kept, n = down[0] - down, down[0] - up, len(down) - 1
        top = [max(1, round(q * n)) for q in bins]
        start = up[~up.isnan()][0]
        numbers.append(
            (loss_gone[1:].nanmean(), (up - start)[1:].nanmean(), loss_gone[top].nanmean(), loss_kept[top].nanmean())
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
    """Return the prompt without its k highest units, and with only those, for k from 0 to all.

    Units with equal scores follow the order of the prompt. None if nothing would remain before the answer.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    everything = range(len(order) + 1)
    return (
        [_without(example, order[:k]) for k in everything],
        [_without(example, order[k:]) for k in everything],
    )


def on_grid(curve: Float[Tensor, " step"], fractions: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
    """Interpolate a curve over 0 to n units linearly at fractions of n; NaN next to an undefined point."""
    at = fractions * (len(curve) - 1)
    below = at.floor().long().clamp(max=len(curve) - 2)
    weight = at - below
    low, high = curve[below], curve[below + 1]
    # A point that is met exactly does not depend on an undefined neighbour.
    return torch.where(weight == 0, low, torch.where(weight == 1, high, low + weight * (high - low)))


def _without(example: Example, units: Sequence[int]) -> Encoded | None:
    """Delete units; None if nothing would remain before the answer."""
    try:
        return example.without(units)
    except InputError:
        return None


def _values(rows: Sequence[Encoded | None], known: dict[Encoded, float]) -> Float[Tensor, " step"]:
    """Look up the values of rows; NaN for None."""
    return torch.tensor([float("nan") if r is None else known[r] for r in rows], dtype=torch.float64)
