"""Make a copied model independent of its original, and check that it is.

`copy.deepcopy` does not copy functions. A model whose `forward` was replaced by a function that closes over one of its
modules (TransformerLens does so on Falcon) therefore has copies that still read, and train, the original. A hook that
holds a weak proxy of a module (TransformerLens's blocks hold one of their attention) would write into the original.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unpact_lens.models import hooked

F = TypeVar("F")

PROBE_TOKENS = 6
"""Number of tokens that the check reads."""


def rebind(copied: nn.Module, memo: Mapping[int, object]) -> None:
    """Replace what the functions kept in a copied model close over by its copies.

    Args:
        copied: Result of `copy.deepcopy(model, memo)`.
        memo: The copies by the `id` of the original, as `copy.deepcopy` fills it.
    """
    for module in copied.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, (types.FunctionType, functools.partial)):
                renewed = _rebound(value, memo)
                if renewed is not value:
                    vars(module)[name] = renewed
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, function in list(hooks.items()):
                hooks[key] = _rebound(function, memo)


def _rebound(function: F, memo: Mapping[int, object]) -> F:
    """Return a function that closes over the copies; the same function if it closes over no original."""
    if isinstance(function, functools.partial):
        args = tuple(memo.get(id(a), a) for a in function.args)
        keywords = {k: memo.get(id(a), a) for k, a in function.keywords.items()}
        inside = _rebound(function.func, memo)
        if inside is function.func and args == function.args and keywords == function.keywords:
            return function
        return cast(F, functools.partial(inside, *args, **keywords))
    if not isinstance(function, types.FunctionType) or function.__closure__ is None:
        return function
    cells, changed = [], False
    for cell in function.__closure__:
        try:
            held = cell.cell_contents
        except ValueError:  # an empty cell: a function that refers to itself
            cells.append(cell)
            continue
        if isinstance(held, types.FunctionType):
            renewed: object = _rebound(held, memo)
        elif isinstance(held, weakref.ProxyTypes):
            renewed = _proxy_of_copy(held, memo)
        else:
            renewed = memo.get(id(held), held)
        changed |= renewed is not held
        cells.append(types.CellType(renewed))
    if not changed:
        return function
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return cast(F, made)


def _proxy_of_copy(proxy: object, memo: Mapping[int, object]) -> object:
    """Return a weak proxy of the copy of what a proxy stands for; the proxy itself where that was not copied."""
    try:
        original = proxy.__repr__.__self__  # type: ignore[attr-defined]  # a bound method holds the object itself
    except ReferenceError:  # it is gone
        return proxy
    copied = memo.get(id(original))
    return proxy if copied is None or copied is original else weakref.proxy(copied)


def reads_memory_of(copied: hooked.HookedModel, original: hooked.HookedModel) -> bool:
    """Return whether a forward pass of a model reads or changes the weights or buffers of another one.

    Args:
        copied: Model that runs on a few tokens, without gradients.
        original: Model whose memory must not be touched.
    """
    theirs = memory_of(original)
    if theirs & memory_of(copied):
        return True
    watch = _Reads()
    tokens = probe_tokens(copied, 1, min(PROBE_TOKENS, copied.cfg.n_ctx))
    with torch.no_grad(), watch:
        copied(tokens, return_type="logits")
    return bool(theirs & watch.storages)


def memory_of(model: hooked.HookedModel) -> set[int]:
    """Return the addresses of the storages of a model's weights and buffers."""
    source = model.original_model if hooked.is_bridge(model) else model
    tensors = [*source.parameters(), *source.buffers()]
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel() and t.device.type != "meta"}


def probe_tokens(model: hooked.HookedModel, rows: int, length: int, seed: int = 0) -> Tensor:
    """Return random token ids `[rows, length]`, always the same ones, on the model's device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.cfg.d_vocab, (rows, length), generator=generator).to(hooked.device_of(model))


class _Reads(TorchDispatchMode):
    """Record the storages of all tensors that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Record the tensors among the arguments, then run the operation."""
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":
                self.storages.add(leaf.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))
