"""Pairwise interactions: which units stand in for each other, and which work only together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.endpoint_scorer import encode_for, scorer_for
from unpact_lens.attribution.result import Interactions
from unpact_lens.attribution.scorer import Score
from unpact_lens.attribution.targets import Target, resolve
from unpact_lens.attribution.units import Example, Units, make_example
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text
from unpact_lens.scoring import check_finite


def interactions(
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    units: Units = "token",
    chosen: Sequence[int] | None = None,
    target: str | Target | Callable[..., Tensor] = "log_prob",
    foil: Text | None = None,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int | None = None,
) -> Interactions:
    r"""How much more removing two units costs than removing each alone: $C_{ij} - C_i - C_j$.

    Positive: redundant (removing both costs more than the sum, since each stood in for the other). Negative: the two
    work only together (removing one already costs what both did). For n units, n(n-1)/2 removals are scored.

    Args:
        model: a hooked causal model in eval mode, or an `Endpoint`.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        units: as for `attribute`.
        chosen: indices of the units to pair; all by default.
        target: as for `attribute`.
        foil: as for `attribute`.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass; None picks it from free memory.

    Returns:
        A matrix with the single contributions, in the target's unit.

    Raises:
        InputError: as `attribute`; if an index is out of range or chosen twice, there are fewer than two units, or
            removing two leaves no context before the answer.

    Source: the interaction index of Grabisch and Roubens 1999 for a pair, at the full prompt; cf. Lundberg et al.
    2018, arXiv 1802.03888.
    """
    encoded = encode_for(model, prompt, answer, chat=chat, prefill=prefill)
    example = make_example(model, encoded, prompt, answer, units=units)
    indices = _chosen(chosen, len(example.members))
    wanted = resolve(model, target, encoded.answer, foil)
    scorer = scorer_for(model, wanted, batch_tokens)
    single, pair = contributions(scorer, example, indices)
    check_finite(single, f"contribution to answer {example.answer!r}")
    matrix = (pair - single[:, None] - single[None]).fill_diagonal_(float("nan"))
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
    r"""$C_i$ of each unit and $C_{ij}$ of each pair, averaged over the answer; NaN on the pairs' diagonal."""
    pairs = list(combinations(range(len(indices)), 2))
    singles = [example.without([u]) for u in indices]
    doubles = [example.without([indices[a], indices[b]]) for a, b in pairs]
    values = torch.stack(score([[example.encoded, *singles, *doubles]])[0]).mean(-1)
    lost = values[0] - values[1:]
    single, together = lost[: len(indices)], lost[len(indices) :]
    pair = torch.full((len(indices), len(indices)), float("nan"), dtype=lost.dtype)
    for (a, b), value in zip(pairs, together, strict=True):
        pair[a, b] = pair[b, a] = value
    return single, pair


def _chosen(chosen: Sequence[int] | None, n: int) -> tuple[int, ...]:
    indices = tuple(range(n)) if chosen is None else tuple(chosen)
    for i in indices:
        if not 0 <= i < n:
            raise InputError(f"unit {i} is out of range; the prompt has {n} units, 0 to {n - 1}")
    if len(set(indices)) < len(indices):
        raise InputError(f"chosen={list(indices)} names a unit twice; name each once")
    if len(indices) < 2:
        raise InputError(f"{len(indices)} unit cannot interact; choose at least two")
    return indices
