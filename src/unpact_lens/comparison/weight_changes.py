"""How much each weight changed: one row a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.result import WeightChanges
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import named_weights

EXACT_SIDE = 512
"""Up to this shorter side, singular values come from an SVD; beyond, from the Gram matrix, which is much faster and
exact to 1e-8 of the largest."""


def weight_changes(
    before: Any,
    after: Any,
    *,
    task_vector: Mapping[str, Tensor] | None = None,
    floor: Sequence[Any] | None = None,
) -> WeightChanges:
    """Compare all weights of two models of one shape.

    Args:
        before: a hooked model.
        after: the other one.
        task_vector: a difference of weights by name (e.g. a fine-tuned model's minus this one's), with which Δ is
            compared; names that it lacks give NaN.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text), on which the same is measured.

    Returns:
        One entry for each weight; all are computed in fp64.

    Raises:
        InputError: if the models are not comparable, or a task vector's name or shape is not that of a weight.
    """
    require_comparable(before, after)
    ours, theirs = named_weights(before), named_weights(after)
    ours = {name: w for name, w in ours.items() if w.is_floating_point()}
    for name, tau in (task_vector or {}).items():
        if name not in ours or ours[name].shape != tau.shape:
            raise InputError(f"task vector {name} {tuple(tau.shape)} fits no weight of the models")
    rows = [
        _changes(name, w.double(), theirs[name].double(), (task_vector or {}).get(name)) for name, w in ours.items()
    ]
    columns = {key: torch.stack([row[key] for row in rows]).cpu() for key in rows[0]}
    beside = None if floor is None else weight_changes(*floor_of(before, floor), task_vector=task_vector)
    return WeightChanges(names=tuple(ours), **columns, floor=beside)


def _changes(name: str, before: Tensor, after: Tensor, task_vector: Tensor | None) -> dict[str, Tensor]:
    delta = after - before
    singular = singular_values(as_matrix(name, delta))
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    return {
        "norm_before": before.norm(),
        "norm_after": after.norm(),
        "norm_delta": delta.norm(),
        "relative": delta.norm() / before.norm() if delta.any() or before.any() else nan,
        "spectral": singular.max(),
        "effective_rank": effective_rank(singular),
        "cosine": torch.ones_like(nan) if torch.equal(before, after) else cosine(before, after),
        "task_vector_cosine": nan if task_vector is None else cosine(delta, task_vector.double()),
    }


def as_matrix(name: str, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "row column"]:
    """A weight as the matrix that it acts as: heads side by side.

    `W_Q`, `W_K`, `W_V` `[head, d_model, d_head]` become `[d_model, head·d_head]`, `W_O` `[head, d_head, d_model]`
    becomes `[head·d_head, d_model]`; biases become one row.
    """
    if name.split(".")[-1].startswith("b_"):
        return weight.reshape(1, -1)
    if weight.ndim == 3:
        return weight.flatten(0, 1) if name.endswith("W_O") else weight.transpose(0, 1).flatten(1)
    return weight if weight.ndim == 2 else weight.reshape(1, -1)


def singular_values(matrix: Float[Tensor, "row column"]) -> Float[Tensor, " rank"]:
    """All singular values, fp64; zeros without any work where the matrix is zero."""
    if not matrix.any():
        return matrix.new_zeros(min(matrix.shape))
    if min(matrix.shape) <= EXACT_SIDE:
        return torch.linalg.svdvals(matrix)
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()


def effective_rank(singular: Float[Tensor, " rank"]) -> Float[Tensor, ""]:
    r"""$\exp H(\sigma / \sum\sigma)$: 1 for a rank-one matrix, n for n equal singular values, NaN for zero.

    Source: Roy and Vetterli 2007, The effective rank.
    """
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()


def cosine(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Cosine of two tensors seen as vectors; NaN where one is zero."""
    return (a * b).sum() / (a.norm() * b.norm())
