"""ContextCite: a sparse linear model of what the answer loses when random sets of units are removed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.base import Outcome, Run
from unpact_lens.attribution.perturbation import one_token, replaced
from unpact_lens.attribution.scorer import Family
from unpact_lens.attribution.units import Example
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text


def context_cite(
    run: Run,
    examples: Sequence[Example],
    *,
    samples: int = 64,
    alpha: float = 0.01,
    token: Text | int | None = None,
) -> list[Outcome]:
    r"""ContextCite: the weights of a sparse linear model of the target.

    $\min_{w,b} \frac1{2N}\sum_m (v(z_m) - w \cdot \tilde z_m - b)^2 + \alpha\|w\|_1$. Each unit stays or goes by a fair
    coin in each of $N$ ablations $z_m$; $\tilde z$ is $z$ standardised, and the weights are given back for $z$ itself:
    what the unit's presence adds. One surrogate is fitted to each answer token (the original fits one to the
    logit-transformed probability of a whole answer).

    Args:
        run: scorer and seed.
        examples: prompts with their answers, cut into units.
        samples: ablations to score, N.
        alpha: strength of the L1 penalty, in the target's unit; 0.01 as in the original.
        token: absent units are replaced by this token instead of deleted.

    Returns:
        Units x answer tokens, in the target's unit, with the mean R² of the fits in the settings.

    Raises:
        InputError: if `samples` is below 2 or `alpha` negative.

    Source: Cohen-Wang et al. 2024, arXiv 2409.00729, Sec. 3.
    """
    if samples < 2 or alpha < 0:
        raise InputError(f"samples={samples}, alpha={alpha}; a surrogate needs at least 2 samples and alpha >= 0")
    replacement = None if token is None else one_token(run.model, token)
    outcomes = []
    for example in examples:
        present = coalitions(run, example, samples, replacement)
        absent = [[u for u, here in enumerate(row) if not here] for row in present.tolist()]
        rows = [example.without(a) if replacement is None else replaced(example, a, replacement) for a in absent]
        family: Family = [example.encoded, *rows]
        values = torch.stack(run.scorer([family])[0][1:])
        weights, score = sparse_fit(present, values, alpha)
        outcomes.append(Outcome(weights, settings={"r2": score, "samples": samples, "alpha": alpha}))
    return outcomes


def coalitions(run: Run, example: Example, samples: int, token: int | None) -> Bool[Tensor, "sample unit"]:
    """Which units stay in each ablation, by fair coins; an ablation that leaves no context is drawn again."""
    generator = torch.Generator().manual_seed(run.seed)
    n, encoded = len(example.members), example.encoded
    removable = {m for members in example.members for m in members}
    # Something always remains where head, tail or a token of no unit stands before the answer.
    safe = token is not None or len(encoded.context) > len(removable)
    rows: list[Tensor] = []
    while len(rows) < samples:
        row = torch.rand(n, generator=generator) < 0.5
        if safe or row.any():
            rows.append(row)
    return torch.stack(rows)


def sparse_fit(
    present: Bool[Tensor, "sample unit"], values: Float[Tensor, "sample answer"], alpha: float
) -> tuple[Float[Tensor, "unit answer"], float]:
    """Lasso of each column of values on presence; a unit that never varies has weight 0.

    Returns:
        Weights, in the unit of the values; and the mean share of variance explained.
    """
    z, y = present.double(), values.double() - values.double().mean(0)
    spread = z.std(0, correction=0)
    standard = torch.where(spread > 0, (z - z.mean(0)) / spread.clamp(min=1e-12), 0.0)
    weights = lasso(standard, y, alpha)
    left = (y - standard @ weights).square().sum(0)
    explained = 1 - left / y.square().sum(0).clamp(min=1e-300)
    scaled = torch.where(spread[:, None] > 0, weights / spread[:, None].clamp(min=1e-12), 0.0)
    return scaled.to(values.dtype), float(explained.mean())


def lasso(
    x: Float[Tensor, "sample unit"], y: Float[Tensor, "sample answer"], alpha: float, tolerance: float = 1e-9
) -> Float[Tensor, "unit answer"]:
    r"""$\arg\min_w \frac1{2N}\|y - x w\|^2 + \alpha\|w\|_1$ for each column, by accelerated proximal steps (FISTA).

    Args:
        x: regressors, centred.
        y: one regression a column, centred.
        alpha: strength of the penalty.
        tolerance: largest change of a weight in a step at which to stop.

    Source: Beck and Teboulle 2009, the algorithm with constant step size.
    """
    gram, moment = x.T @ x / len(x), x.T @ y / len(x)
    step = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12)
    weights = torch.zeros_like(moment)
    ahead, momentum = weights, 1.0
    for _ in range(20_000):
        moved = ahead - step * (gram @ ahead - moment)
        new = moved.sign() * (moved.abs() - alpha * step).clamp(min=0)
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / faster * (new - weights)
        done = (new - weights).abs().max() < tolerance
        weights, momentum = new, faster
        if done:
            break
    return weights
