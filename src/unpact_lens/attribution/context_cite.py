"""Fit a sparse linear model of the target to random ablations of the prompt (ContextCite)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.replace import one_token, replaced
from unpact_lens.attribution.scorer import Family
from unpact_lens.attribution.units import Example
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text


@attribution_method(
    "weight of the unit in a sparse linear model of random removals",
    "Cohen-Wang et al. 2024, arXiv 2409.00729",
    deletion="ids",
    scores_only=True,
)
def context_cite(
    inputs: MethodInput,
    examples: Sequence[Example],
    *,
    samples: int = 64,
    alpha: float = 0.01,
    token: Text | int | None = None,
) -> list[MethodOutput]:
    r"""Compute ContextCite scores: the weights of a sparse linear model of the target.

    $\min_{w,b} \frac1{2N}\sum_m (v(z_m) - w \cdot \tilde z_m - b)^2 + \alpha\|w\|_1$. In each of $N$ ablations $z_m$,
    each unit is kept or removed with probability one half. $\tilde z$ is $z$ standardised; the returned weights refer
    to $z$ itself, the effect of the unit's presence. One model is fitted to each answer token. The original fits one
    model to the logit-transformed probability of a whole answer.

    Args:
        inputs: Scorer of the target, and seed.
        examples: Prompts with their answers, cut into units.
        samples: Number of ablations to score, N.
        alpha: Strength of the L1 penalty, in the target's unit. The default is that of the original.
        token: Token that replaces removed units. If None, they are deleted.

    Returns:
        Units x answer tokens, in the target's unit. The settings hold the mean R² of the fits.

    Raises:
        InputError: If `samples` is below 2 or `alpha` is negative.

    Source: Cohen-Wang et al. 2024, arXiv 2409.00729, Sec. 3.
    """
    if samples < 2 or alpha < 0:
        raise InputError(f"samples={samples}, alpha={alpha}; a surrogate needs at least 2 samples and alpha >= 0")
    replacement = None if token is None else one_token(inputs.scorer.model, token)
    outputs = []
    for example in examples:
        present = coalitions(example, samples, inputs.seed, may_be_empty=replacement is not None)
        absent = [[u for u, here in enumerate(row) if not here] for row in present.tolist()]
        rows = [example.without(a) if replacement is None else replaced(example, a, replacement) for a in absent]
        family: Family = [example.encoded, *rows]
        values = torch.stack(inputs.scorer([family])[0][1:])  # [sample, answer]
        weights, score = sparse_fit(present, values, alpha)
        outputs.append(MethodOutput(weights, settings={"r2": score, "samples": samples, "alpha": alpha}))
    return outputs


def coalitions(example: Example, samples: int, seed: int, *, may_be_empty: bool) -> Bool[Tensor, "sample unit"]:
    """Draw which units each ablation keeps, each with probability one half.

    Args:
        example: Prompt with its answer, cut into units.
        samples: Number of ablations.
        seed: Random seed.
        may_be_empty: Whether an ablation may remove every unit. If not, one that leaves no context is drawn again.
    """
    generator = torch.Generator().manual_seed(seed)
    n, encoded = len(example.members), example.encoded
    removable = {m for members in example.members for m in members}
    # Some context always remains if head, tail or a token of no unit precedes the answer.
    safe = may_be_empty or len(encoded.context) > len(removable)
    rows: list[Tensor] = []
    while len(rows) < samples:
        row = torch.rand(n, generator=generator) < 0.5
        if safe or row.any():
            rows.append(row)
    return torch.stack(rows)


def sparse_fit(
    present: Bool[Tensor, "sample unit"], values: Float[Tensor, "sample answer"], alpha: float
) -> tuple[Float[Tensor, "unit answer"], float]:
    """Fit a lasso of each column of values on presence; a unit that never varies has weight 0.

    Returns:
        Weights, in the unit of the values, and the mean share of explained variance.
    """
    z, y = present.double(), values.double() - values.double().mean(0)
    spread = z.std(0, correction=0)  # [unit]
    standard = torch.where(spread > 0, (z - z.mean(0)) / spread.clamp(min=1e-12), 0.0)  # [sample, unit]
    weights = lasso(standard, y, alpha)
    left = (y - standard @ weights).square().sum(0)  # [answer]
    explained = 1 - left / y.square().sum(0).clamp(min=1e-300)
    scaled = torch.where(spread[:, None] > 0, weights / spread[:, None].clamp(min=1e-12), 0.0)
    return scaled.to(values.dtype), float(explained.mean())


def lasso(
    x: Float[Tensor, "sample unit"], y: Float[Tensor, "sample answer"], alpha: float, tolerance: float = 1e-9
) -> Float[Tensor, "unit answer"]:
    r"""Minimise $\frac1{2N}\|y - x w\|^2 + \alpha\|w\|_1$ for each column, by accelerated proximal gradient (FISTA).

    Args:
        x: Regressors, centred.
        y: Responses, centred; one regression for each column.
        alpha: Strength of the penalty.
        tolerance: Largest change of a weight in one step at which to stop.

    Source: Beck and Teboulle 2009, the algorithm with constant step size.
    """
    gram, moment = x.T @ x / len(x), x.T @ y / len(x)  # [unit, unit], [unit, answer]
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
