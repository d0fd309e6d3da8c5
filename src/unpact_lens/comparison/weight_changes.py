"""Compare the weights of two models, one row per matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.comparison.noise_columns import beside_floor
from unpact_lens.display import joined, largest
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import named_weights
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.low_rank import LowRank
from unpact_lens.models.weights import named_adapters
from unpact_lens.results import Result

NORM_PART = 2**22
"""Number of entries of a weight that are in fp64 at a time where only its norm is needed."""

EXACT_SIDE = 512
"""Largest shorter side of a matrix whose singular values come from an SVD. Those of larger matrices come from the Gram
matrix, which is much faster and exact to 1e-8 of the largest."""


@dataclass(frozen=True, eq=False)
class WeightChanges(Result):
    """Hold how much each weight changed; every tensor has one entry per weight.

    Attributes:
        names: Names of the weights.
        norm_before: Frobenius norm in the original model.
        norm_after: Frobenius norm in the unlearned model.
        norm_delta: Frobenius norm of Δ.
        relative: Norm of Δ over norm before; NaN if both are zero.
        spectral: Largest singular value of Δ; for a vector its norm.
        effective_rank: exp of the entropy of Δ's singular values normalised to sum 1; NaN if Δ is zero.
        cosine: Cosine of the weight before with the weight after; 1 if they are equal.
        task_vector_cosine: Cosine of Δ with a given task vector; NaN if none was given or one of them is zero.
        floor: The same for the noise baseline, or None.
    """

    names: tuple[str, ...]
    norm_before: Float[Tensor, " weight"]
    norm_after: Float[Tensor, " weight"]
    norm_delta: Float[Tensor, " weight"]
    relative: Float[Tensor, " weight"]
    spectral: Float[Tensor, " weight"]
    effective_rank: Float[Tensor, " weight"]
    cosine: Float[Tensor, " weight"]
    task_vector_cosine: Float[Tensor, " weight"]
    floor: WeightChanges | None = None

    figure: ClassVar[str | None] = "changes:weight_changes"

    def _brief(self) -> str:
        return joined([f"{len(self.names)} weights", f"relative change {largest(self.relative, (self.names,))}"])

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per weight."""
        columns = (
            "norm_before", "norm_after", "norm_delta", "relative", "spectral", "effective_rank", "cosine",
            "task_vector_cosine",
        )  # fmt: skip
        frame = pd.DataFrame({"weight": self.names, **{c: getattr(self, c).tolist() for c in columns}})
        return beside_floor(frame, self.floor, columns[2:7])


def weight_changes(
    before: HookedModel,
    after: HookedModel,
    *,
    task_vector: Mapping[str, Tensor] | None = None,
    floor: Sequence[HookedModel] | None = None,
) -> WeightChanges:
    """Compare all weights of two models of one shape.

    Args:
        before: Original model.
        after: Unlearned model.
        task_vector: Difference of weights by name, e.g. a fine-tuned model's minus this one's, with which Δ is
            compared. Weights that it lacks give NaN.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), on which the same is measured.

    Returns:
        One entry per weight; all are computed in fp64.

    Raises:
        InputError: If the models are not comparable, or a task vector's name or shape is not that of a weight.
    """
    return weights_of_pair(ModelPair.of(before, after, floor=floor), task_vector or {})


def weights_of_pair(pair: ModelPair, task_vector: Mapping[str, Tensor]) -> WeightChanges:
    """Compare all weights of a pair of models; see `weight_changes`."""
    ours, theirs = named_weights(pair.before), named_weights(pair.after)
    ours = {name: w for name, w in ours.items() if w.is_floating_point()}
    for name, tau in task_vector.items():
        if name not in ours or ours[name].shape != tau.shape:
            raise InputError(f"task vector {name} {tuple(tau.shape)} fits no weight of the models")
    adapted = _low_rank_changes(pair) if pair.shared else {}
    rows = []
    for name, w in ours.items():  # one weight at a time in fp64
        if name in adapted:
            rows.append(_low_rank(w.double(), *adapted[name], task_vector.get(name)))
        elif pair.shared:
            rows.append(_unchanged(w))
        else:
            rows.append(_changes(name, w.double(), theirs[name].double(), task_vector.get(name)))
    columns = {key: torch.stack([row[key].cpu() for row in rows]) for key in rows[0]}
    noise = None if pair.noise is None else weights_of_pair(pair.noise, task_vector)
    return WeightChanges(names=tuple(ours), floor=noise, **columns)


Factors = tuple[Float[Tensor, "input rank"], Float[Tensor, "rank output"], LowRank]
"""A change Δ as two factors, and an adapter that knows how the weight is stored."""


def _low_rank_changes(pair: ModelPair) -> dict[str, Factors]:
    """Return Δ of each adapted weight of two models on the same weights, in fp64."""
    found: dict[str, list[tuple[float, LowRank]]] = {}
    for sign, model in ((-1.0, pair.before), (1.0, pair.after)):
        for name, adapters in named_adapters(model).items():
            found.setdefault(name, []).extend((sign, adapter) for adapter in adapters)
    return {
        name: (
            torch.cat([sign * a.scale * a.A.detach().double() for sign, a in both], dim=1),
            torch.cat([a.B.detach().double() for _, a in both]),
            both[0][1],
        )
        for name, both in found.items()
    }


def _low_rank(
    before: Float[Tensor, "*shape"],
    left: Float[Tensor, "input rank"],
    right: Float[Tensor, "rank output"],
    adapter: LowRank,
    task_vector: Float[Tensor, "*shape"] | None,
) -> dict[str, Float[Tensor, ""]]:
    """Measure the change of one adapted weight; Δ's singular values are those of a matrix of its rank."""
    delta = adapter.stored(left @ right, before)
    inner = torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T  # [rank, rank]
    return _measured(before, before + delta, delta, torch.linalg.svdvals(inner), task_vector)


def _unchanged(weight: Float[Tensor, "*shape"]) -> dict[str, Float[Tensor, ""]]:
    """Measure a weight that both models share."""
    # Part by part: the whole weight in fp64 would take four times the memory of a half-precision one.
    parts = weight.detach().flatten().split(NORM_PART)
    norm = torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]).norm()
    zero, nan = torch.zeros_like(norm), torch.full_like(norm, float("nan"))
    return {
        "norm_before": norm,
        "norm_after": norm,
        "norm_delta": zero,
        "relative": zero if bool(norm) else nan,
        "spectral": zero,
        "effective_rank": nan,
        "cosine": torch.ones_like(norm),
        "task_vector_cosine": nan,
    }


def _changes(
    name: str,
    before: Float[Tensor, "*shape"],
    after: Float[Tensor, "*shape"],
    task_vector: Float[Tensor, "*shape"] | None,
) -> dict[str, Float[Tensor, ""]]:
    """Measure the change of one weight; keys are the fields of `WeightChanges`."""
    delta = after - before
    return _measured(before, after, delta, singular_values(as_matrix(name, delta)), task_vector)


def _measured(
    before: Float[Tensor, "*shape"],
    after: Float[Tensor, "*shape"],
    delta: Float[Tensor, "*shape"],
    singular: Float[Tensor, " rank"],
    task_vector: Float[Tensor, "*shape"] | None,
) -> dict[str, Float[Tensor, ""]]:
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
    """Reshape a weight to the matrix that it acts as, heads side by side.

    `W_Q`, `W_K`, `W_V` `[head, d_model, d_head]` become `[d_model, head·d_head]`, `W_O` `[head, d_head, d_model]`
    becomes `[head·d_head, d_model]`; biases become one row.
    """
    if name.split(".")[-1].startswith("b_"):
        return weight.reshape(1, -1)
    if weight.ndim == 3:
        return weight.flatten(0, 1) if name.endswith("W_O") else weight.transpose(0, 1).flatten(1)
    return weight if weight.ndim == 2 else weight.reshape(1, -1)


def singular_values(matrix: Float[Tensor, "row column"]) -> Float[Tensor, " rank"]:
    """Compute all singular values in the dtype of the matrix; a zero matrix needs no decomposition."""
    if not matrix.any():
        return matrix.new_zeros(min(matrix.shape))
    if min(matrix.shape) <= EXACT_SIDE:
        return torch.linalg.svdvals(matrix)
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T  # [side, side], the shorter
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()


def effective_rank(singular: Float[Tensor, " rank"]) -> Float[Tensor, ""]:
    r"""Compute $\exp H(\sigma / \sum\sigma)$.

    It is 1 for a rank-one matrix, n for n equal singular values, and NaN for a zero matrix.

    Source: Roy and Vetterli 2007, The effective rank.
    """
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()


def cosine(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Compute the cosine of two tensors seen as vectors; NaN if one is zero."""
    return (a * b).sum() / (a.norm() * b.norm())
