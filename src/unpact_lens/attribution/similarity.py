"""Compare sets of contributions, and describe their spread: pure functions of scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor


def spearman(a: Float[Tensor, " unit"], b: Float[Tensor, " unit"]) -> float:
    """Compute Spearman's rank correlation; NaN for fewer than two units or if one side is constant."""
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    return float(stats.spearmanr(a.double().numpy(), b.double().numpy()).statistic)


def jaccard(a: Sequence[int], b: Sequence[int]) -> float:
    """Compute the Jaccard overlap, |a and b| / |a or b|; NaN if both are empty."""
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else float("nan")


def entropy(scores: Float[Tensor, " unit"]) -> float:
    r"""Compute $-\sum_i p_i \ln p_i$ with $p_i = |C_i| / \sum_j |C_j|$, nats; NaN if every contribution is 0."""
    size = scores.double().abs()
    if size.sum() == 0:
        return float("nan")
    return float(torch.special.entr(size / size.sum()).sum())


def rank(scores: Float[Tensor, " unit"], index: int) -> float:
    """Return the rank of one unit by contribution, 1 for the largest; equal contributions share their mean rank."""
    larger = int((scores > scores[index]).sum())
    equal = int((scores == scores[index]).sum())
    return larger + (equal + 1) / 2
