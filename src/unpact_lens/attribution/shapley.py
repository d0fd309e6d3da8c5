"""Shapley values: a unit's contribution averaged over all orders in which units could be added."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.base import Outcome, Run
from unpact_lens.attribution.perturbation import one_token, replaced
from unpact_lens.attribution.scorer import Family
from unpact_lens.attribution.units import Example
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Encoded, Text

EXACT_UNITS = 10
"""Up to this many units all coalitions are scored."""


def shapley(
    run: Run,
    examples: Sequence[Example],
    *,
    estimator: str = "auto",
    samples: int = 64,
    token: Text | int | None = None,
) -> list[Outcome]:
    r"""Shapley values: $C_i = \sum_{S \not\ni i} \frac{|S|!\,(n-|S|-1)!}{n!}\,\big(v(S \cup i) - v(S)\big)$.

    $v(S)$ is the target when only the units in $S$ stand in the prompt, the others being deleted. The values of all
    units sum to $v(x) - v(\varnothing)$, exactly for every estimator.

    Args:
        run: scorer and seed.
        examples: prompts with their answers, cut into units.
        estimator: `"exact"`; `"permutation"` (orders drawn in pairs, each with its reverse); `"kernel"` (coalitions
            drawn in complementary pairs from the Shapley kernel); `"auto"` is exact up to `EXACT_UNITS` units, else
            permutation.
        samples: orders, or coalitions, to draw; rounded up to whole pairs.
        token: absent units are replaced by this token instead of deleted, so that something remains of the empty
            coalition.

    Returns:
        Units x answer tokens, in the target's unit; sampled ones with their standard error.

    Raises:
        InputError: if the estimator is unknown, there are too many units for exact values, or nothing would stand
            before the answer in the empty coalition.

    Source: Shapley 1953; permutation sampling: Castro et al. 2009, with reversed pairs Mitchell et al. 2022,
    arXiv 2104.12199; kernel: Covert and Lee 2021, arXiv 2012.01536, Eq. 12 (the unbiased estimator).
    """
    if estimator not in ("auto", *ESTIMATORS):
        raise InputError(f"unknown estimator {estimator!r}; {nearest(estimator, ['auto', *ESTIMATORS])}")
    if samples < 2:
        raise InputError(f"samples={samples}; sampled Shapley values need at least 2")
    replacement = None if token is None else one_token(run.model, token)
    outcomes = []
    for example in examples:
        n = len(example.members)
        chosen = ("exact" if n <= EXACT_UNITS else "permutation") if estimator == "auto" else estimator
        if chosen == "exact" and n > EXACT_UNITS:
            raise InputError(f"{n} units have 2^{n} coalitions; exact values take up to {EXACT_UNITS}: sample instead")
        value = _game(run, example, replacement)
        generator = torch.Generator().manual_seed(run.seed)
        values, error = ESTIMATORS[chosen](value, n, samples, generator)
        outcomes.append(Outcome(values, error=error, settings={"estimator": chosen, "samples": samples}))
    return outcomes


Game = Callable[[Bool[Tensor, "coalition unit"]], Float[Tensor, "coalition answer"]]
"""The target's values of coalitions."""


def exact(
    value: Game, n: int, samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "unit answer"], Float[Tensor, " unit"] | None]:
    """All 2^n coalitions, weighted as the formula says."""
    coalitions = torch.tensor(list(itertools.product([False, True], repeat=n)))
    values, sizes = value(coalitions), coalitions.sum(1)
    # For a coalition with i: the weight of what i adds to the rest; without i: minus the weight of what i would add.
    with_i = torch.tensor(
        [1 / (n * math.comb(n - 1, s - 1)) if s else 0.0 for s in sizes.tolist()], dtype=torch.float64
    )
    without_i = torch.tensor(
        [1 / (n * math.comb(n - 1, s)) if s < n else 0.0 for s in sizes.tolist()], dtype=torch.float64
    )
    weights = torch.where(coalitions, with_i[:, None], -without_i[:, None])
    return weights.to(values).T @ values, None


def permutation(
    value: Game, n: int, samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "unit answer"], Float[Tensor, " unit"] | None]:
    """What each unit adds when units come in random orders, each order followed by its reverse."""
    forward = [torch.randperm(n, generator=generator) for _ in range((samples + 1) // 2)]
    orders = torch.stack([o for order in forward for o in (order, order.flip(0))])
    # present[m, j]: the first j units of order m.
    place = orders.argsort(1)
    present = place[:, None, :] < torch.arange(n + 1)[None, :, None]
    values = value(present.flatten(0, 1)).unflatten(0, (len(orders), n + 1))
    added = (values[:, 1:] - values[:, :-1]).gather(1, place[..., None].expand(-1, -1, values.shape[-1]))
    pairs = added.unflatten(0, (-1, 2)).mean(1)
    return pairs.mean(0), _error(pairs.mean(-1))


def kernel(
    value: Game, n: int, samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "unit answer"], Float[Tensor, " unit"] | None]:
    r"""Least squares on coalitions drawn from the Shapley kernel, with the exact second moment of the draws.

    $\phi = A^{-1}\big(\bar b - \mathbf 1\,\frac{\mathbf 1^\top A^{-1} \bar b - v(x) + v(\varnothing)}
    {\mathbf 1^\top A^{-1} \mathbf 1}\big)$, $b = z\,(v(z) - v(\varnothing))$, $A = \mathbb E[z z^\top]$.
    """
    ends = value(torch.tensor([[False] * n, [True] * n]))
    if n == 1:
        return (ends[1] - ends[0])[None], torch.zeros(1, dtype=ends.dtype)
    sizes = torch.arange(1, n)
    draws = torch.multinomial(1.0 / (sizes * (n - sizes)).double(), (samples + 1) // 2, True, generator=generator)
    ranks = torch.stack([torch.randperm(n, generator=generator) for _ in draws])
    half = ranks < sizes[draws][:, None]
    coalitions = torch.stack([half, ~half], 1).flatten(0, 1)
    b = coalitions[..., None] * (value(coalitions) - ends[0])[:, None, :]
    pairs = b.unflatten(0, (-1, 2)).mean(1)
    inverse = torch.linalg.inv(kernel_second_moment(n)).to(b)
    ones = torch.ones(n, dtype=b.dtype)
    project = inverse - torch.outer(inverse @ ones, ones @ inverse) / (ones @ inverse @ ones)
    offset = inverse @ ones / (ones @ inverse @ ones)
    phi = project @ pairs.mean(0) + offset[:, None] * (ends[1] - ends[0])
    return phi, _error(pairs.mean(-1) @ project.T)


def kernel_second_moment(n: int) -> Float[Tensor, "unit unit"]:
    r"""$\mathbb E[z z^\top]$ under the Shapley kernel $p(|z| = k) \propto 1/(k (n-k))$, $1 \le k \le n-1$."""
    k = torch.arange(1, n, dtype=torch.float64)
    weights = 1 / (k * (n - k))
    both = (weights * k * (k - 1)).sum() / weights.sum() / (n * (n - 1))
    moment = torch.full((n, n), float(both), dtype=torch.float64)
    return moment.fill_diagonal_(0.5)


ESTIMATORS = {"exact": exact, "permutation": permutation, "kernel": kernel}


def _game(run: Run, example: Example, token: int | None) -> Game:
    """The target's values of coalitions of this example's units."""

    def row(present: list[bool]) -> Encoded:
        absent = [u for u, here in enumerate(present) if not here]
        return example.without(absent) if token is None else replaced(example, absent, token)

    def value(coalitions: Bool[Tensor, "coalition unit"]) -> Float[Tensor, "coalition answer"]:
        family: Family = [example.encoded, *(row(c) for c in coalitions.tolist())]
        return torch.stack(run.scorer([family])[0][1:])

    return value


def _error(draws: Float[Tensor, "draw unit"]) -> Float[Tensor, " unit"]:
    """Standard error of the mean over independent draws; NaN for a single one."""
    return draws.std(0) / len(draws) ** 0.5
