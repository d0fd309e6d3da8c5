"""Compute a half-precision model in fp32, one weight at a time.

A decomposition of a bf16 model needs activations, products and sums in fp32. A whole fp32 copy takes twice the memory
of the model itself. `in_fp32` makes a second model on the same weights (`shared_weights`) whose matrices are cast when
they are read and freed after use; vectors are cast once. Its numbers are those of a whole fp32 copy.
"""

from __future__ import annotations

import weakref

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.low_rank import original, parametrisations, parametrise
from unpact_lens.models.ready import weights_version
from unpact_lens.models.shared_weights import share

HALF = (torch.bfloat16, torch.float16)

FIRST = "_unpact_fp32"
"""Name of the empty parameter that says that a module computes in fp32."""

_MADE: weakref.WeakKeyDictionary[object, tuple[tuple[int, int], HookedModel]] = weakref.WeakKeyDictionary()
"""The fp32 model of each half-precision model, and the version of the weights that it was made from."""


class Upcast(nn.Module):
    """Cast a weight to fp32 each time it is read."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight in fp32."""
        return weight.float()


def in_fp32(model: HookedModel) -> HookedModel:
    """Return a model on the same weights that computes in fp32.

    It is kept as long as the model, because it holds no large weight of its own.

    Args:
        model: Hooked model in half precision; it is not changed.
    """
    kept = _MADE.get(model)
    if kept is not None and kept[0] == weights_version(model.parameters()):
        return kept[1]
    wide = share(model)
    for module in list(wide.modules()):
        _widen(module)
    wide.cfg.dtype = torch.float32
    _MADE[model] = weights_version(model.parameters()), wide  # making `wide` counts as a change
    return wide


def _widen(module: nn.Module) -> None:
    """Cast a module's own half-precision vectors and buffers now, and its matrices when they are read."""
    if isinstance(module, parametrize.ParametrizationList):
        if original(module).dtype in HALF:
            module.insert(0, Upcast())  # before adapters, which then add to the fp32 weight
            _say_fp32(module)
        return
    for name, weight in list(module._parameters.items()):
        if weight is None or weight.dtype not in HALF:
            continue
        if weight.ndim < 2:
            module._parameters[name] = nn.Parameter(weight.detach().float(), weight.requires_grad)
            continue
        parametrise(module, name, Upcast(), _embed if type(module).forward is nn.Embedding.forward else None)
        _say_fp32(module)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.dtype in HALF:
            module._buffers[name] = buffer.float()


def _say_fp32(module: nn.Module) -> None:
    """Put an empty fp32 parameter first, because a bridge casts activations to the dtype of a module's first one."""
    stored = next(module.parameters())
    others = dict(module._parameters)
    module._parameters.clear()
    module._parameters.update({FIRST: nn.Parameter(stored.new_empty(0, dtype=torch.float32)), **others})


def _embed(module: nn.Embedding, ids: Int[Tensor, "*batch"]) -> Tensor:
    """Look rows up and cast those rows only."""
    return nn.functional.embedding(ids, original(parametrisations(module)["weight"])).float()
