"""Bring the fused matrices of a bridge's source model up to date with the parts that the bridge uses.

The bridge splits query, key and value (or gate and input) of a fused matrix by output feature. Which features go to
which part follows from one matrix of indices, which is split once for each shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from unpact_lens.errors import InputError
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.weights import _fused_modules as fused_modules


@dataclass(frozen=True)
class FusedRows:
    """Hold a fused parameter of the source model and the parts that the bridge uses in its place.

    Attributes:
        weight: Fused parameter; it is out of date once a part has changed.
        parts: Parameters that the bridge uses, `[feature, in]` or `[feature]`.
        features: For each part, the output features that are its rows.
        axis: Axis of the output features in the fused parameter: 1 for GPT-2's transposed matrices, else 0.
    """

    weight: nn.Parameter
    parts: tuple[nn.Parameter, ...]
    features: tuple[Int[Tensor, " feature"], ...]
    axis: int

    def join(self) -> None:
        """Copy the parts into the fused parameter, unless they are views of it, as in GPT-2 before it is copied."""
        for part, features in zip(self.parts, self.features, strict=True):
            offset = int(features[0]) * self.weight.stride(self.axis) * self.weight.element_size()
            if part.data_ptr() == self.weight.data_ptr() + offset:
                continue
            rows = part.detach().T if self.axis else part.detach()
            self.weight.data.index_copy_(self.axis, features.to(self.weight.device), rows)


def fused_rows(model: HookedModel) -> list[FusedRows]:
    """List the fused parameters of a bridge.

    Raises:
        InputError: If a matrix is not split by output feature.
    """
    found, layouts = [], {}
    with exclusive(model):
        for weight, holder, name, split, modules in fused_modules(model):
            parts = tuple(getattr(module, name) for module in modules)
            key = (type(holder), name, weight.shape, tuple(p.shape for p in parts))
            if key not in layouts:
                layouts[key] = _layout(weight, holder, name, split, [p.shape for p in parts])
            found.append(FusedRows(weight, parts, *layouts[key]))
    return found


def _layout(
    weight: nn.Parameter,
    holder: nn.Module,
    name: str,
    split: Callable[[], Sequence[nn.Module]],
    shapes: list[torch.Size],
) -> tuple[tuple[Tensor, ...], int]:
    """Return the features of each part and the axis of the output features, from a split matrix of indices."""
    index = torch.arange(weight.numel(), dtype=torch.float64, device=weight.device).reshape(weight.shape)
    others = {n: p for n, p in holder._parameters.items() if p is not None}
    try:
        for other, p in others.items():
            value = index if other == name else torch.zeros_like(p, dtype=torch.float64)
            holder._parameters[other] = nn.Parameter(value, requires_grad=False)
        pieces = [getattr(piece, name).detach().long() for piece in split()]
    finally:
        holder._parameters.update(others)
    for axis in range(weight.ndim):
        whole = index.long().movedim(axis, 0)  # [feature, in] or [feature]
        per = index.stride(axis)  # distance between the indices of two features
        features = tuple((piece[:, 0] if piece.ndim == 2 else piece) // per for piece in pieces)
        if all(
            piece.shape == shape and piece.shape[1:] == whole.shape[1:] and bool((f < len(whole)).all())
            and torch.equal(whole[f], piece)
            for piece, shape, f in zip(pieces, shapes, features, strict=True)
        ):  # fmt: skip
            return features, axis
    raise InputError(f"the parts of a fused {name} of {tuple(weight.shape)} are not its output features")
