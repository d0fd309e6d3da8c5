"""Compute Shapley values: a unit's contribution, averaged over all orders of adding units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.replace import one_token, replaced
from unpact_lens.attribution.scorer import Family, Score
from unpact_lens.attribution.units import Example
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Encoded, Text

EXACT_UNITS = 10
"""Largest number of units for which all coalitions are scored."""


@attribution_method(
    "contribution of the unit averaged over all orders of adding units; exact up to 10 units, else sampled",
    "Shapley 1953; Castro et al. 2009; Covert and Lee 2021, arXiv 2012.01536",
    deletion="ids",
    scores_only=True,
)
def shapley(
    inputs: MethodInput,
    examples: Sequence[Example],
    *,
    estimator: str = "auto",
    samples: int = 64,
    token: Text | int | None = None,
) -> list[MethodOutput]:
    r"""Compute Shapley values: $C_i = \sum_{S \not\ni i} \frac{|S|!\,(n-|S|-1)!}{n!}\,\big(v(S \cup i) - v(S)\big)$.

    $v(S)$ is the target when only the units in $S$ remain in the prompt and the others are deleted. For every
    estimator, the values of all units sum exactly to $v(x) - v(\varnothing)$.

    Args:
        inputs: Scorer of the target, and seed.
        examples: Prompts with their answers, cut into units.
        estimator: `"exact"`; `"permutation"` (orders drawn in pairs, each with its reverse); `"kernel"` (coalitions
            drawn in complementary pairs from the Shapley kernel); or `"auto"`, which is exact up to `EXACT_UNITS` units
            and permutation beyond.
        samples: Number of orders, or coalitions, to draw; rounded up to whole pairs.
        token: Token that replaces absent units, so that the empty coalition has a context. If None, they are deleted.

    Returns:
        Units x answer tokens, in the target's unit. Sampled values come with their standard error.

    Raises:
        InputError: If the estimator is unknown, there are too many units for exact values, or the empty coalition
            leaves no context before the answer.

    Source: Shapley 1953; permutation sampling: Castro et al. 2009, with reversed pairs Mitchell et al. 2022,
    arXiv 2104.12199; kernel: Covert and Lee 2021, arXiv 2012.01536, Eq. 12 (the unbiased estimator).
    """
    if estimator not in ("auto", *ESTIMATORS):
        raise InputError(f"unknown estimator {estimator!r}; {nearest(estimator, ['auto', *ESTIMATORS])}")
    if samples < 2:
        raise InputError(f"samples={samples}; sampled Shapley values need at least 2")
    replacement = None if token is None else one_token(inputs.scorer.model, token)
    outputs = []
    for example in examples:
        n = len(example.members)
        chosen = ("exact" if n <= EXACT_UNITS else "permutation") if estimator == "auto" else estimator
        if chosen == "exact" and n > EXACT_UNITS:
            raise InputError(
                f"{n} units have 2^{n} coalitions; exact values take up to {EXACT_UNITS} units; use another estimator"
            )
        value = _game(inputs.scorer, example, replacement)
        generator = torch.Generator().manual_seed(inputs.seed)
        values, error = ESTIMATORS[chosen](value, n, samples, generator)
        outputs.append(MethodOutput(values, error=error, settings={"estimator": chosen, "samples": samples}))
    return outputs


Game = Callable[[Bool[Tensor, "coalition unit"]], Float[Tensor, "coalition answer"]]
"""Function from coalitions to the target's values."""


def exact(
    value: Game, n: int, samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "unit answer"], Float[Tensor, " unit"] | None]:
    """Score all 2^n coalitions and weight them by the formula."""
    coalitions = torch.tensor(list(itertools.product([False, True], repeat=n)))  # [2^n, unit]
    values, sizes = value(coalitions), coalitions.sum(1)
    # A coalition with i enters v(S + i) - v(S) as its first term, a coalition without i as its second, with minus.
    with_i = torch.tensor(
        [1 / (n * math.comb(n - 1, s - 1)) if s else 0.0 for s in sizes.tolist()], dtype=torch.float64
    )
    without_i = torch.tensor(
        [1 / (n * math.comb(n - 1, s)) if s < n else 0.0 for s in sizes.tolist()], dtype=torch.float64
    )
    weights = torch.where(coalitions, with_i[:, None], -without_i[:, None])  # [2^n, unit]
    return weights.to(values).T @ values, None


def permutation(
    value: Game, n: int, samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "unit answer"], Float[Tensor, " unit"] | None]:
    """Average what each unit adds in random orders, each order followed by its reverse."""
    forward = [torch.randperm(n, generator=generator) for _ in range((samples + 1) // 2)]
    orders = torch.stack([o for order in forward for o in (order, order.flip(0))])  # [order, rank]
    place = orders.argsort(1)  # [order, unit], the rank of each unit
    # present[m, j] holds the first j units of order m.
    present = place[:, None, :] < torch.arange(n + 1)[None, :, None]  # [order, n + 1, unit]
    values = value(present.flatten(0, 1)).unflatten(0, (len(orders), n + 1))  # [order, n + 1, answer]
    steps = values[:, 1:] - values[:, :-1]  # [order, rank, answer]
    added = steps.gather(1, place[..., None].expand(-1, -1, values.shape[-1]))  # [order, unit, answer]
    pairs = added.unflatten(0, (-1, 2)).mean(1)  # [pair, unit, answer]
    return pairs.mean(0), _error(pairs.mean(-1))


def kernel(
    value: Game, n: int, samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "unit answer"], Float[Tensor, " unit"] | None]:
    r"""Solve least squares on coalitions drawn from the Shapley kernel, with the exact second moment of the draws.

    $\phi = A^{-1}\big(\bar b - \mathbf 1\,\frac{\mathbf 1^\top A^{-1} \bar b - v(x) + v(\varnothing)}
    {\mathbf 1^\top A^{-1} \mathbf 1}\big)$, $b = z\,(v(z) - v(\varnothing))$, $A = \mathbb E[z z^\top]$.
    """
    ends = value(torch.tensor([[False] * n, [True] * n]))  # [2, answer]: v(empty), v(x)
    if n == 1:
        return (ends[1] - ends[0])[None], torch.zeros(1, dtype=ends.dtype)
    sizes = torch.arange(1, n)
    draws = torch.multinomial(1.0 / (sizes * (n - sizes)).double(), (samples + 1) // 2, True, generator=generator)
    ranks = torch.stack([torch.randperm(n, generator=generator) for _ in draws])
    half = ranks < sizes[draws][:, None]  # [pair, unit]
    coalitions = torch.stack([half, ~half], 1).flatten(0, 1)  # [sample, unit], complements adjacent
    b = coalitions[..., None] * (value(coalitions) - ends[0])[:, None, :]  # [sample, unit, answer]
    pairs = b.unflatten(0, (-1, 2)).mean(1)  # [pair, unit, answer]
    inverse = torch.linalg.inv(kernel_second_moment(n)).to(b)
    ones = torch.ones(n, dtype=b.dtype)
    project = inverse - torch.outer(inverse @ ones, ones @ inverse) / (ones @ inverse @ ones)
    offset = inverse @ ones / (ones @ inverse @ ones)
    phi = project @ pairs.mean(0) + offset[:, None] * (ends[1] - ends[0])
    return phi, _error(pairs.mean(-1) @ project.T)


def kernel_second_moment(n: int) -> Float[Tensor, "unit unit"]:
    r"""Compute $\mathbb E[z z^\top]$ under the Shapley kernel $p(|z| = k) \propto 1/(k (n-k))$, $1 \le k \le n-1$."""
    k = torch.arange(1, n, dtype=torch.float64)
    weights = 1 / (k * (n - k))
    both = (weights * k * (k - 1)).sum() / weights.sum() / (n * (n - 1))
    moment = torch.full((n, n), float(both), dtype=torch.float64)
    return moment.fill_diagonal_(0.5)


ESTIMATORS = {"exact": exact, "permutation": permutation, "kernel": kernel}


def _game(score: Score, example: Example, token: int | None) -> Game:
    """Return the function that scores coalitions of this example's units."""

    def row(present: list[bool]) -> Encoded:
        absent = [u for u, here in enumerate(present) if not here]
        return example.without(absent) if token is None else replaced(example, absent, token)

    def value(coalitions: Bool[Tensor, "coalition unit"]) -> Float[Tensor, "coalition answer"]:
        family: Family = [example.encoded, *(row(c) for c in coalitions.tolist())]
        return torch.stack(score([family])[0][1:])

    return value


def _error(draws: Float[Tensor, "draw unit"]) -> Float[Tensor, " unit"]:
    """Compute the standard error of the mean over independent draws; NaN for a single draw."""
    return draws.std(0) / len(draws) ** 0.5
