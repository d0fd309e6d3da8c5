"""Compute pairwise interactions: which units can replace each other, and which work only together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.attribution.endpoint_scorer import encode_for, scorer_for
from unpact_lens.attribution.scorer import Score, asking_with_budget
from unpact_lens.attribution.targets import Target, resolve
from unpact_lens.attribution.units import Example, Units, make_example
from unpact_lens.display import joined, largest, quoted
from unpact_lens.errors import InputError
from unpact_lens.models.asking import AskingOptions
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text
from unpact_lens.results import Result
from unpact_lens.scoring import check_finite

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Interactions(Result):
    r"""Hold the cost of removing two units together beyond that of removing each alone.

    Attributes:
        tokens: Text of each chosen unit.
        matrix: $C_{ij} - C_i - C_j$, averaged over the answer; symmetric, NaN on the diagonal. Positive: redundant,
            each unit can replace the other. Negative: they work only together.
        single: $C_i$ of each unit.
        pair: $C_{ij}$, the contribution of the two together; NaN on the diagonal.
        indices: Indices of the chosen units in the prompt.
        units: How the prompt was cut.
        target: Name of what is attributed.
        prompt: Text of the prompt.
        answer: Text of the answer.
        settings: Settings as used.
    """

    figure: ClassVar[str | None] = "attribution:interactions"

    tokens: tuple[str, ...]
    matrix: Float[Tensor, "unit unit"]
    single: Float[Tensor, " unit"]
    pair: Float[Tensor, "unit unit"]
    indices: tuple[int, ...]
    units: str
    target: str
    prompt: str
    answer: str
    settings: dict[str, Any] = field(default_factory=dict)

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.tokens)} rows by {self.units}",
                largest(self.matrix, (self.tokens, [f" with {t}" for t in self.tokens])),
                quoted(self.answer, 20),
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each pair, the strongest interaction first."""
        import pandas as pd

        rows = [
            {
                "i": self.indices[a],
                "j": self.indices[b],
                "first": self.tokens[a],
                "second": self.tokens[b],
                "interaction": float(self.matrix[a, b]),
                "together": float(self.pair[a, b]),
            }
            for a in range(len(self.tokens))
            for b in range(a + 1, len(self.tokens))
        ]
        return pd.DataFrame(rows).sort_values("interaction", key=abs, ascending=False, ignore_index=True)


def interactions(
    model: HookedModel | Endpoint,
    prompt: Text,
    answer: Text,
    *,
    units: Units = "token",
    chosen: Sequence[int] | None = None,
    target: str | Target | Callable[..., Tensor] = "log_prob",
    foil: Text | None = None,
    **asking: Unpack[AskingOptions],
) -> Interactions:
    r"""Compute how much more it costs to remove two units than to remove each alone: $C_{ij} - C_i - C_j$.

    Positive: redundant. Removing both costs more than the sum, since each replaced the other. Negative: the two work
    only together, so removing one already loses the effect of both. For n units, n(n-1)/2 removals are scored.

    Args:
        model: Hooked causal model in eval mode, or an `Endpoint`.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        units: Units, as for `attribute`.
        chosen: Indices of the units to pair. If None, all are paired.
        target: Target, as for `attribute`.
        foil: Foil, as for `attribute`.
        asking: Options of `AskingOptions`. By default, `batch_tokens` is set from the free memory.

    Returns:
        A matrix with the single contributions, in the target's unit.

    Raises:
        InputError: As `attribute`; if an index is out of range or given twice, there are fewer than two units, or
            removing two leaves no context before the answer.

    Source: the interaction index of Grabisch and Roubens 1999 for a pair, at the full prompt; cf. Lundberg et al.
    2018, arXiv 1802.03888.
    """
    asked, budget = asking_with_budget(asking)
    encoded = encode_for(model, prompt, answer, asked)
    example = make_example(model, encoded, prompt, answer, units=units)
    indices = _chosen(chosen, len(example.members))
    wanted = resolve(model, target, encoded, foil)
    scorer = scorer_for(model, wanted, budget)
    single, pair = contributions(scorer, example, indices)
    check_finite(single, f"contribution to answer {example.answer!r}")
    matrix = (pair - single[:, None] - single[None]).fill_diagonal_(float("nan"))  # [unit, unit]
    return Interactions(
        tokens=tuple(example.labels[i] for i in indices),
        matrix=matrix,
        single=single,
        pair=pair,
        indices=indices,
        units=units if isinstance(units, str) else "spans",
        target=wanted.name,
        prompt=example.text,
        answer=example.answer,
        settings=scorer.settings,
    )


def contributions(
    score: Score, example: Example, indices: Sequence[int]
) -> tuple[Float[Tensor, " unit"], Float[Tensor, "unit unit"]]:
    r"""Compute $C_i$ of each unit and $C_{ij}$ of each pair, averaged over the answer; NaN on the pairs' diagonal."""
    pairs = list(combinations(range(len(indices)), 2))
    singles = [example.without([u]) for u in indices]
    doubles = [example.without([indices[a], indices[b]]) for a, b in pairs]
    values = torch.stack(score([[example.encoded, *singles, *doubles]])[0]).mean(-1)  # [row]
    lost = values[0] - values[1:]  # [unit + pair]
    single, together = lost[: len(indices)], lost[len(indices) :]
    pair = torch.full((len(indices), len(indices)), float("nan"), dtype=lost.dtype)
    for (a, b), value in zip(pairs, together, strict=True):
        pair[a, b] = pair[b, a] = value
    return single, pair


def _chosen(chosen: Sequence[int] | None, n: int) -> tuple[int, ...]:
    """Check the indices of the units to pair."""
    indices = tuple(range(n)) if chosen is None else tuple(chosen)
    for i in indices:
        if not 0 <= i < n:
            raise InputError(f"unit {i} is out of range; the prompt has {n} units, 0 to {n - 1}")
    if len(set(indices)) < len(indices):
        raise InputError(f"chosen={list(indices)} names a unit twice; name each once")
    if len(indices) < 2:
        raise InputError(f"{len(indices)} unit cannot interact; choose at least two")
    return indices
