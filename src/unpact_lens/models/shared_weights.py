"""Make further models on the weights of one model, so that several models need the memory of one.

`share` copies a model's modules and hook points, which are small, and not its weights. The copy is a model of its own:
it has its own hooks, its own lock, and its own adapters. Where adapters (`low_rank`) are added to the copy, the first
model is the one with adapters off and the copy the one with adapters on. Nothing is switched between two calls.
"""

from __future__ import annotations

from typing import TypeVar, cast

from torch import Tensor, nn

from unpact_lens.models.exclusive import deep_copy, exclusive
from unpact_lens.models.independence import rebind
from unpact_lens.models.low_rank import own_classes

M = TypeVar("M")


def share(model: M) -> M:
    """Return a second model on the same weights: equal modules, configuration and `requires_grad` flags.

    A weight that is changed in place changes in both. The tokenizer is shared. Gradients are not.

    Args:
        model: Hooked model; it is not changed.
    """
    source = cast(nn.Module, model)
    with exclusive(model):
        memo = copy_memo(source)
        for module in source.modules():
            for p in module._parameters.values():
                if p is not None and id(p) not in memo:
                    memo[id(p)] = nn.Parameter(p.detach(), requires_grad=p.requires_grad)
            memo |= {id(b): b for b in module._buffers.values() if b is not None}
        copied = deep_copy(source, memo)
    rebind(copied, memo)
    own_classes(copied)
    return cast(M, copied)


def copy_memo(model: nn.Module) -> dict[int, object]:
    """Return what `copy.deepcopy` must not copy of a model: its tokenizer, and activations with a graph."""
    memo: dict[int, object] = {id(t): t for t in [getattr(model, "tokenizer", None)] if t}
    # A bridge stores its last attention pattern. With its graph attached, the pattern cannot be copied.
    for module in model.modules():
        memo |= {id(v): v.detach() for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf}
    return memo


def shares_weights(first: object, second: object) -> bool:
    """Return whether two models are on the same weights, so that they need the memory of one."""
    if not isinstance(first, nn.Module) or not isinstance(second, nn.Module):
        return False
    ours, theirs = _largest(first), _largest(second)
    return ours is not None and theirs is not None and ours.data_ptr() == theirs.data_ptr()


def _largest(model: nn.Module) -> nn.Parameter | None:
    """Return the largest parameter of a model, None without one."""
    return max(model.parameters(), key=lambda p: p.numel(), default=None)
