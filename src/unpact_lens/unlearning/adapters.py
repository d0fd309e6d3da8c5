r"""Train low-rank adapters: $W + \frac{\alpha}{r} A B$ with only A and B trained, merged back exactly.

An adapter is a parametrisation of a weight (`torch.nn.utils.parametrize`), so it works on whatever the weight's module
is: three-dimensional attention weights of a `HookedTransformer`, `Linear` and `Conv1D` modules behind a bridge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning.trainable import readable_names, trainable


class LowRank(nn.Module):
    """Add a low-rank matrix to a weight.

    A three-dimensional weight of attention counts as the matrix that the source model has: `[head, d_model, d_head]`
    as `[d_model, head·d_head]`, `W_O` `[head, d_head, d_model]` as `[head·d_head, d_model]`. The weight of a `Linear`
    behind a bridge is stored `[out, in]` and counts as its transpose, so A always multiplies the input.

    Args:
        weight: Weight to be adapted.
        rank: Rank of the added matrix.
        alpha: Scale; the added matrix is multiplied by alpha / rank.
        generator: Source of randomness for A. B starts at 0, so the model starts unchanged.
        heads_last: Whether heads belong to the matrix's columns (queries, keys, values).
        transposed: Whether the weight is stored `[out, in]`.
    """

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        heads_last: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.transposed = transposed
        self.heads_last, self.scale = heads_last and weight.ndim == 3, alpha / rank
        rows, columns = self.matrix(weight).shape
        draw = torch.randn(rows, rank, generator=generator) / rows**0.5
        # Adapters of half-precision weights are fp32: they are small, and their updates would be lost in rounding.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.A = nn.Parameter(draw.to(weight.device, dtype))
        self.B = nn.Parameter(torch.zeros(rank, columns, dtype=dtype, device=weight.device))

    def matrix(self, weight: Tensor) -> Float[Tensor, "rows columns"]:
        """Return the weight as a matrix `[input, output]`."""
        if self.transposed:
            return weight.T
        if self.heads_last:
            return weight.movedim(0, 1).flatten(1)  # [d_model, head·d_head]
        return weight.flatten(0, weight.ndim - 2)  # [head·d_head, d_model], or unchanged

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight plus the low-rank matrix."""
        added = (self.scale * self.A @ self.B).to(weight.dtype)  # [rows, columns]
        if self.transposed:
            return weight + added.T
        if self.heads_last:
            heads, d_model, d_head = weight.shape
            return weight + added.reshape(d_model, heads, d_head).movedim(1, 0)  # [head, d_model, d_head]
        return weight + added.reshape(weight.shape)


class Adapters:
    """Attach adapters to a model; `merge` writes them into its weights.

    Args:
        model: Hooked model, changed in place.
        modules: Names or patterns of weights. If None, every matrix of attention and MLPs is adapted.
        rank: Rank of each adapter.
        alpha: Scale, relative to the rank.
        seed: Random seed of the initial values.

    Raises:
        InputError: If no matrix is chosen.
    """

    def __init__(self, model: HookedModel, modules: Sequence[str] | None, rank: int, alpha: float, seed: int) -> None:
        self.model = model
        self.flags = {n: p.requires_grad for n, p in model.named_parameters()}
        names, every = readable_names(model), modules is None
        chosen = [n for n, p in trainable(model, modules).items() if is_matrix(names[n], p, in_blocks=every)]
        if not chosen:
            raise InputError(f"rank={rank}: {', '.join(modules or ['the model'])} holds no matrix to adapt")
        self.order = {id(m): list(m._parameters) for m in model.modules()}
        generator = torch.Generator().manual_seed(seed)
        model.requires_grad_(False)
        self.places = []
        self.names = [names[n] for n in chosen]
        for name in chosen:
            owner, leaf = name.rpartition(".")[::2]
            module = model.get_submodule(owner)
            heads_last = leaf.lstrip("_") in ("W_Q", "W_K", "W_V")
            linear = isinstance(module, nn.Linear)
            adapter = LowRank(getattr(module, leaf), rank, alpha, generator, heads_last, transposed=linear)
            parametrize.register_parametrization(module, leaf, adapter)
            self.places.append((module, leaf, adapter))

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return every A and B."""
        return (p for _, _, adapter in self.places for p in (adapter.A, adapter.B))

    def by_name(self) -> dict[str, LowRank]:
        """Return each adapter by the TransformerLens name of its weight."""
        return dict(zip(self.names, (a for _, _, a in self.places), strict=True))

    def merge(self) -> None:
        """Write the sums into the weights, remove the adapters, and restore the `requires_grad` flags."""
        for module, leaf, _ in self.places:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
            module._parameters = {n: module._parameters[n] for n in self.order[id(module)] if n in module._parameters}
        for name, p in self.model.named_parameters():
            p.requires_grad_(self.flags[name])


def is_matrix(name: str, weight: Tensor, *, in_blocks: bool = True) -> bool:
    """Return whether a parameter is a weight matrix.

    Args:
        name: TransformerLens name of the parameter.
        weight: Parameter.
        in_blocks: Whether only matrices of blocks count.
    """
    leaf = name.rpartition(".")[2].lstrip("_")
    return (
        weight.ndim >= 2
        and (leaf.startswith("W_") or leaf == "weight")
        and (not in_blocks or re.match(r"(parts\.\d+\.)?blocks\.", name) is not None)
    )
