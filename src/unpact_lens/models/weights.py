"""Name every weight of a hooked model once: what is hashed, saved, compared, grafted and exported.

A `TransformerBridge` wraps the modules of a Hugging Face model, the *source model*. Its own `state_dict` lists the
weights that TransformerLens knows by name. It leaves out experts, state-space parameters and per-head norms, and it
holds the parts of a fused matrix (query, key and value in one) beside the fused matrix, which it no longer uses.
Here the source model's `state_dict` decides:

1. Take what the bridge names, by its TransformerLens name.
2. Add every other tensor of the source model, by its own name with `blocks.{layer}` in front.
3. Leave out fused matrices. `source_state` puts them together from their parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.low_rank import (
    LowRank,
    adapters_of,
    attach,
    is_adapted,
    original,
    parametrisations,
    without_adapters,
)
from unpact_lens.models.random_state import random_state_kept

WRAPPED = "._original_component"
"""Part of a bridge's raw names that says that a module is wrapped."""


@dataclass(frozen=True)
class Fused:
    """Hold a matrix (or bias) of the source model whose parts the bridge uses in its place.

    Attributes:
        weight: Fused parameter; it is out of date once a part has changed.
        parts: Parameters that the bridge uses.
        places: For each part, the index of each of its numbers in the flattened fused parameter.
    """

    weight: nn.Parameter
    parts: tuple[nn.Parameter, ...]
    places: tuple[Tensor, ...]

    def joined(self) -> Tensor:
        """Return the fused parameter with the present numbers of its parts."""
        whole = self.weight.detach().flatten().clone()
        for part, place in zip(self.parts, self.places, strict=True):
            whole[place] = part.detach().flatten().to(whole)
        return whole.reshape(self.weight.shape)


class AdaptedWeights(Mapping[str, Tensor]):
    """Read the weights of a model with adapters; each sum is formed when it is read, and not kept.

    Args:
        stored: Weights without adapters, by name.
        adapters: Adapters of each adapted weight, by the same names.
    """

    def __init__(self, stored: Mapping[str, Tensor], adapters: Mapping[str, Sequence[LowRank]]) -> None:
        self.stored, self.adapters = stored, adapters

    def __getitem__(self, name: str) -> Tensor:
        """Return a weight; an adapted one in fp32 at least, because half precision would round small changes away."""
        weight = self.stored[name]
        with torch.no_grad():
            for adapter in self.adapters.get(name, ()):
                weight = adapter(weight.to(adapter.A.dtype))
        return weight

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.stored)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self.stored)


def named_weights(model: HookedModel) -> Mapping[str, Tensor]:
    """Return all weights of a model by name, detached; these are hashed, saved and compared.

    Of a bridge, these are all parameters and buffers of the source model's `state_dict`, each once. Of a model with
    adapters, they are the sums, which are copies. The others are the model's own memory.
    """
    stored = stored_weights(model)
    if not is_adapted(model):
        return stored
    return AdaptedWeights(stored, named_adapters(model, stored))


def stored_weights(model: HookedModel) -> dict[str, Tensor]:
    """Return all weights of a model by name, detached and without adapters; they are the model's own memory."""
    with exclusive(model), without_adapters(model):
        if not hooked.is_bridge(model):
            return {name: tensor.detach() for name, tensor in model.named_parameters()}
        return _weights_of_bridge(model)


def named_adapters(model: HookedModel, stored: Mapping[str, Tensor] | None = None) -> dict[str, list[LowRank]]:
    """Return the adapters of each adapted weight, by the weight's name.

    Args:
        model: Hooked model.
        stored: Result of `stored_weights`, if at hand.
    """
    stored = stored_weights(model) if stored is None else stored
    names = {_place(tensor): name for name, tensor in stored.items()}
    return {
        names[_place(original(parametrisations(module)[leaf]))]: found for module, leaf, found in adapters_of(model)
    }


def _weights_of_bridge(model: HookedModel) -> dict[str, Tensor]:
    named = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    seen = {_place(tensor) for tensor in named.values()}
    unused = {id(weight) for weight, *_ in _fused_modules(model)}
    blocks = _blocks_prefix(model)
    others: dict[tuple[int, int], tuple[str, Tensor]] = {}
    for raw, tensor in model.original_model.state_dict(keep_vars=True).items():
        if id(tensor) in unused or _place(tensor) in seen or not tensor.numel():
            continue
        known = others.get(_place(tensor))
        # One tensor has several raw names. The one with the fewest wrappers uses the bridge's names of modules.
        if known is None or raw.count(WRAPPED) <= known[0].count(WRAPPED):
            others[_place(tensor)] = (raw, tensor.detach())
    for raw, tensor in others.values():
        clean = raw.replace(WRAPPED, "")
        name = f"blocks.{clean[len(blocks) :]}" if blocks and clean.startswith(blocks) else clean
        if name in named:
            raise InputError(f"two weights of this {type(model.original_model).__name__} are called {name}")
        named[name] = tensor
    return named


def holders(model: HookedModel) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules that hold the parameters of a model without adapters, with the parameter's name there."""
    assert isinstance(model, nn.Module)
    for module in model.modules():
        yield from ((module, leaf) for leaf, p in module._parameters.items() if p is not None)


def attach_named(model: HookedModel, adapters: Mapping[str, Sequence[LowRank]]) -> None:
    """Add adapters to a model in place, frozen.

    Args:
        model: Hooked model without adapters.
        adapters: Adapters by the name of the weight, as `named_adapters` returns them.

    Raises:
        InputError: If the model has no such weight.
    """
    stored = stored_weights(model)
    places = {_place(getattr(module, leaf)): (module, leaf) for module, leaf in holders(model)}
    for name, several in adapters.items():
        if name not in stored:
            raise InputError(f"weight {name} of an adapter is not part of this model")
        module, leaf = places[_place(stored[name])]
        for adapter in several:
            adapter.transposed = isinstance(module, nn.Linear)
            attach(module, leaf, adapter.requires_grad_(False))


def fill_weights(model: HookedModel, state: Mapping[str, Tensor]) -> None:
    """Copy named weights into a bridge.

    Raises:
        InputError: If a weight is missing, unknown or of another shape. No weight is copied then.
    """
    named = named_weights(model)
    for name in sorted(named.keys() | state.keys()):
        if name not in state:
            raise InputError(f"weight {name} is missing")
        if name not in named:
            raise InputError(f"weight {name} is not part of this model")
        if named[name].shape != state[name].shape:
            raise InputError(f"weight {name} has shape {tuple(state[name].shape)}, expected {tuple(named[name].shape)}")
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(state[name])


def uncovered_weight(model: HookedModel) -> str | None:
    """Return what the named weights of a bridge lack of its source model's `state_dict`, as a sentence, or None.

    The source model is built again from its configuration, without memory for its weights.
    """
    if not hooked.is_bridge(model):
        return None
    config = AutoConfig.for_model(**model.original_model.config.to_dict())
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(config, trust_remote_code=False).state_dict()
    with exclusive(model), without_adapters(model):
        state = source_state(model)
        named = {_place(tensor) for tensor in stored_weights(model).values()}
        joined = {id(fused.weight) for fused in fused_weights(model)}
        held = {
            raw.replace(WRAPPED, "")
            for raw, tensor in model.original_model.state_dict(keep_vars=True).items()
            if _place(tensor) in named or id(tensor) in joined or not tensor.numel()
        }
    for name, like in expected.items():
        if name not in state or name not in held:
            return f"weight {name} would not be saved"
        if state[name].shape != like.shape:
            return f"weight {name} is {tuple(state[name].shape)}, not {tuple(like.shape)}"
    return None


def source_state(model: HookedModel) -> dict[str, Tensor]:
    """Return the weights of a bridge as its source model names and stores them, fused matrices included.

    The result has further entries for what the bridge added, such as an unembedding bias and parts of fused matrices.
    """
    hf = model.original_model
    joined = {id(fused.weight): fused for fused in fused_weights(model)}
    state: dict[str, Tensor] = {}
    for raw, tensor in hf.state_dict(keep_vars=True).items():
        clean = raw.replace(WRAPPED, "")
        if clean not in state:
            state[clean] = joined[id(tensor)].joined() if id(tensor) in joined else tensor.detach()
    return state


def fused_weights(model: HookedModel) -> list[Fused]:
    """List the fused matrices and biases of a bridge, with where each number of their parts belongs.

    The bridge's own function that splits a matrix is applied to the matrix of its indices.

    Raises:
        InputError: If parts and whole do not match one to one.
    """
    found = []
    with exclusive(model):
        modules = list(_fused_modules(model))
    for weight, holder, name, split, parts in modules:
        index = torch.arange(weight.numel(), dtype=torch.float64, device=weight.device).reshape(weight.shape)
        others = {n: p for n, p in holder._parameters.items() if p is not None}
        with exclusive(model):
            try:
                for other, p in others.items():
                    value = index if other == name else torch.zeros_like(p, dtype=torch.float64)
                    holder._parameters[other] = nn.Parameter(value, requires_grad=False)
                with random_state_kept(weight.device):
                    pieces = split()
            finally:
                holder._parameters.update(others)
        places = tuple(getattr(piece, name).detach().flatten().long() for piece in pieces)
        own = tuple(getattr(part, name) for part in parts)
        if torch.cat(places).unique().numel() != weight.numel() or sum(p.numel() for p in own) != weight.numel():
            raise InputError(
                f"the parts of a fused {name} of this {type(model.original_model).__name__} are not all of it"
            )
        found.append(Fused(weight, own, places))
    return found


Split = tuple[nn.Parameter, nn.Module, str, Callable[[], tuple[nn.Module, ...]], tuple[nn.Module, ...]]
"""A fused parameter, its module, its name there, the function that splits it, and the modules of its parts."""


def _fused_modules(model: HookedModel) -> Iterator[Split]:
    """Yield each fused parameter of a bridge."""
    seen: set[int] = set()
    for component in model.original_model.modules():
        held = vars(component)
        if "split_qkv_matrix" in held:
            inside = component.original_component
            qkv = component.submodules.get("qkv")
            fused = None if qkv is None or inside is None else getattr(inside, qkv.name, None)
            parts: tuple[nn.Module, ...] = (component.q, component.k, component.v)
            split = held["split_qkv_matrix"]
        elif "split_gate_up_matrix" in held:
            inside = component.original_component
            fused = getattr(inside, component.fused_attr, None)
            parts = (component.gate, getattr(component, "in"))
            split = held["split_gate_up_matrix"]
        else:
            continue
        if fused is None:
            continue
        module, own = _unwrapped(fused), tuple(_unwrapped(part) for part in parts)
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in seen:
                seen.add(id(weight))
                yield weight, module, name, functools.partial(split, inside), own


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that a bridge's component wraps, or the module itself."""
    while (inner := module._modules.get("_original_component")) is not None:
        module = inner
    return module


def _blocks_prefix(model: HookedModel) -> str:
    """Return the beginning of the source model's names of block weights, e.g. `model.layers.`; empty if not known."""
    blocks = getattr(model.adapter, "component_mapping", {}).get("blocks")
    return "" if blocks is None else f"{blocks.name}."


def _place(tensor: Tensor) -> tuple[int, int]:
    """Return what identifies the memory of a tensor."""
    return tensor.data_ptr(), tensor.numel()
