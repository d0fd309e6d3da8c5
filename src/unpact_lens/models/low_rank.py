r"""Add low-rank adapters to weights: $W + \frac{\alpha}{r} A B$, with W itself left as it is.

An adapter is a parametrisation of a weight (`torch.nn.utils.parametrize`), so every reader of the weight gets the sum:
three-dimensional attention weights of a `HookedTransformer`, `Linear` and `Conv1D` modules behind a bridge. `Linear`
and `Conv1D` never form the sum in their forward pass. They compute $xW + \frac{\alpha}{r}(xA)B$, as PEFT does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

HELD = "parametrizations"
"""Name of the submodule in which torch keeps a module's parametrisations."""

ORDER = "_unpact_order"
"""Attribute in which an adapted module keeps the order of its parameters without adapters."""


class LowRank(nn.Module):
    """Add a low-rank matrix to a weight.

    A three-dimensional weight of attention counts as the matrix that the source model has: `[head, d_model, d_head]`
    as `[d_model, head·d_head]`, `W_O` `[head, d_head, d_model]` as `[head·d_head, d_model]`. The weight of a `Linear`
    behind a bridge is stored `[out, in]` and counts as its transpose, so A always multiplies the input.

    Args:
        a: A, `[input, rank]`.
        b: B, `[rank, output]`.
        scale: Factor of their product.
        heads_last: Whether heads belong to the matrix's columns (queries, keys, values).
        transposed: Whether the weight is stored `[out, in]`.

    Source: Hu et al. 2021, arXiv 2106.09685.
    """

    def __init__(
        self,
        a: Float[Tensor, "input rank"],
        b: Float[Tensor, "rank output"],
        scale: float,
        *,
        heads_last: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.heads_last, self.transposed = scale, heads_last, transposed
        self.A, self.B = nn.Parameter(a), nn.Parameter(b)

    @classmethod
    def drawn(
        cls,
        weight: Tensor,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        *,
        heads_last: bool = False,
        transposed: bool = False,
    ) -> LowRank:
        """Make an adapter for a weight: A is drawn and B starts at 0, so the model starts unchanged.

        Args:
            weight: Weight to be adapted.
            rank: Rank of the added matrix.
            alpha: Scale; the added matrix is multiplied by alpha / rank.
            generator: Source of randomness for A.
            heads_last: As for the class, where the weight is three-dimensional.
            transposed: As for the class.
        """
        made = cls(weight.new_empty(0, 0), weight.new_empty(0, 0), alpha / rank,
                   heads_last=heads_last and weight.ndim == 3, transposed=transposed)  # fmt: skip
        rows, columns = made.matrix(weight).shape
        draw = torch.randn(rows, rank, generator=generator) / rows**0.5
        # Adapters of half-precision weights are fp32: they are small, and their updates would be lost in rounding.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        made.A = nn.Parameter(draw.to(weight.device, dtype))
        made.B = nn.Parameter(torch.zeros(rank, columns, dtype=dtype, device=weight.device))
        return made

    def matrix(self, weight: Tensor) -> Float[Tensor, "rows columns"]:
        """Return a weight as a matrix `[input, output]`."""
        if self.transposed:
            return weight.T
        if self.heads_last:
            return weight.movedim(0, 1).flatten(1)  # [d_model, head·d_head]
        return weight.flatten(0, weight.ndim - 2)  # [head·d_head, d_model], or unchanged

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight plus the low-rank matrix, in the weight's dtype."""
        return weight + self.stored((self.scale * self.A @ self.B).to(weight.dtype), weight)

    def stored(self, matrix: Float[Tensor, "rows columns"], like: Tensor) -> Tensor:
        """Return a matrix `[input, output]` in the shape of the weight; the inverse of `matrix`."""
        if self.transposed:
            return matrix.T
        if self.heads_last:
            heads, d_model, d_head = like.shape
            return matrix.reshape(d_model, heads, d_head).movedim(1, 0)  # [head, d_model, d_head]
        return matrix.reshape(like.shape)

    def added(self, out: Float[Tensor, "*batch column"], x: Float[Tensor, "*batch row"]) -> Tensor:
        """Add to `out` the product of inputs and the low-rank matrix, which is not formed, in the dtype of the inputs.

        One call multiplies by B, scales and adds. A large model is slowed down by the number of calls.
        """
        inner = x.reshape(-1, x.shape[-1]) @ self.A.to(x.dtype)  # [batch, rank]
        flat = torch.addmm(out.reshape(-1, out.shape[-1]), inner, self.B.to(x.dtype), alpha=self.scale)
        return flat.reshape(out.shape)


def attach(module: nn.Module, leaf: str, adapter: LowRank) -> None:
    """Add an adapter to a weight of a module; a weight may have several, whose matrices add up.

    Args:
        module: Module that holds the weight.
        leaf: Name of the weight in the module.
        adapter: Adapter made for this weight.
    """
    parametrise(module, leaf, adapter, _PRODUCTS.get(type(module).forward) if leaf == "weight" else None)


def parametrise(module: nn.Module, leaf: str, how: nn.Module, forward: object = None) -> None:
    """Compute a weight of a module from the stored one whenever it is read.

    Args:
        module: Module that holds the weight.
        leaf: Name of the weight in the module.
        how: Function of the stored weight. A second one is applied to the result of the first.
        forward: Forward pass to use in place of the module's own, unless one was set on the module itself.
    """
    vars(module).setdefault(ORDER, list(module._parameters))
    new = HELD not in module._modules
    parametrize.register_parametrization(module, leaf, how, unsafe=True)
    if not new:
        return
    kind = type(module)  # the class that torch has just made for this module
    # A bridge's component passes unknown names on to the module inside, so a copy of it would be a copy of that.
    for name in ("__deepcopy__", "__getstate__"):
        if name in vars(kind):
            delattr(kind, name)
    if forward is not None and "forward" not in vars(module):
        setattr(kind, "forward", forward)  # noqa: B010


def _linear(module: nn.Linear, x: Float[Tensor, "*batch row"]) -> Float[Tensor, "*batch column"]:
    """Compute `Linear` with adapters, the low-rank part apart."""
    return _with_adapters(module, x, nn.functional.linear(x, _stored(module), module.bias))


def _conv1d(module: Conv1D, x: Float[Tensor, "*batch row"]) -> Float[Tensor, "*batch column"]:
    """Compute `Conv1D` with adapters, the low-rank part apart."""
    flat = torch.addmm(module.bias, x.reshape(-1, x.shape[-1]), _stored(module))  # [batch, column]
    return _with_adapters(module, x, flat.reshape(*x.shape[:-1], module.nf))


def _stored(module: nn.Module) -> Tensor:
    """Return the weight without adapters, in the dtype that the parametrisations before them give it."""
    held = _of_weight(module)
    weight = original(held)
    for each in held.children():
        weight = weight if isinstance(each, LowRank) else each(weight)
    return weight


def _of_weight(module: nn.Module) -> parametrize.ParametrizationList:
    """Return the parametrisations of `weight`, which is looked up faster than by `parametrisations`."""
    found = module._modules[HELD]._modules["weight"]  # type: ignore[union-attr]
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def _with_adapters(module: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    for each in _of_weight(module).children():
        if isinstance(each, LowRank):
            out = each.added(out, x)
    return out


_PRODUCTS: dict[object, object] = {nn.Linear.forward: _linear, Conv1D.forward: _conv1d}
"""Forward pass with adapters, by the forward pass of the module without them."""


def adapters_of(model: object) -> Iterator[tuple[nn.Module, str, list[LowRank]]]:
    """Yield each adapted weight of a model: its module, its name there, and its adapters."""
    for module in _parametrised(model):
        for leaf, each in parametrisations(module).items():
            if found := [a for a in each.children() if isinstance(a, LowRank)]:
                yield module, leaf, found


def is_adapted(model: object) -> bool:
    """Return whether a model has adapters that are not merged into its weights."""
    return next(adapters_of(model), None) is not None


def merge_adapters(model: object) -> None:
    """Write each sum into its weight, in the weight's dtype, and remove the adapters."""
    for module, leaf, _ in list(adapters_of(model)):
        held = module._modules[HELD]
        assert isinstance(held, nn.ModuleDict)
        summed = nn.Parameter(getattr(module, leaf).detach(), original(parametrisations(module)[leaf]).requires_grad)
        del held[leaf]
        if not held:
            del module._modules[HELD]
            module.__class__ = type(module).__bases__[0]
        module._parameters[leaf] = summed
        _restore_order(module)


def own_classes(model: object) -> None:
    """Give each parametrised module of a copied model a class of its own.

    `copy.deepcopy` keeps the class that torch made for one module. A parametrisation added to or removed from the copy
    would change the class of the original.
    """
    for module in _parametrised(model):
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


@contextmanager
def without_adapters(model: object) -> Iterator[None]:
    """Show a model's modules without their parametrisations inside a `with` block, as its `state_dict` reads them.

    The model must not run inside the block.
    """
    hidden = []
    for module in _parametrised(model):
        held, own = module._modules[HELD], dict(module._parameters)
        module._parameters.update({leaf: original(each) for leaf, each in parametrisations(module).items()})
        del module._modules[HELD]
        _restore_order(module)
        hidden.append((module, held, own))
    try:
        yield
    finally:
        for module, held, own in hidden:
            module._parameters.clear()
            module._parameters.update(own)
            module._modules[HELD] = held


def _parametrised(model: object) -> list[nn.Module]:
    """Return the modules of a model that have parametrisations; none of anything else."""
    return [m for m in model.modules() if HELD in m._modules] if isinstance(model, nn.Module) else []


def parametrisations(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """Return the parametrisations of each weight of a module, by the weight's name; empty without any."""
    held = module._modules.get(HELD)
    found = held.items() if isinstance(held, nn.ModuleDict) else ()
    return {leaf: each for leaf, each in found if isinstance(each, parametrize.ParametrizationList)}


def original(held: parametrize.ParametrizationList) -> nn.Parameter:
    """Return the stored weight of a parametrised one."""
    stored = held.original
    assert isinstance(stored, nn.Parameter)
    return stored


def holder(model: object, name: str) -> tuple[nn.Module, str]:
    """Return the module of a parameter and its name there; of an adapted weight, those that it has without adapters."""
    assert isinstance(model, nn.Module)
    owner, _, leaf = name.rpartition(".")
    outer, mark, inner = owner.rpartition(f".{HELD}.")
    return (model.get_submodule(outer), inner) if mark else (model.get_submodule(owner), leaf)


def _restore_order(module: nn.Module) -> None:
    parameters = dict(module._parameters)
    names = [n for n in vars(module).get(ORDER, ()) if n in parameters]
    module._parameters.clear()
    module._parameters.update({n: parameters[n] for n in [*names, *(n for n in parameters if n not in names)]})
