"""Find the weight matrices of a model by the type of the module that holds them, with the axis of their inputs.

Names of parameters differ between architectures and wrappers (`blocks.0.mlp.W_in`, `model.layers.0.mlp.up_proj.weight`,
`transformer.h.0.mlp.c_fc.weight`). So does the axis: a linear layer holds `[out, in]`, GPT-2's `Conv1D` `[in, out]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.lens_version import AbstractAttention, CanBeUsedAsMLP

# Any module is accepted at run time; one without matrices is refused by name.
if TYPE_CHECKING:
    Wrapped = HookedModel
else:
    Wrapped = nn.Module


@dataclass(frozen=True)
class WeightMatrix:
    """Hold one weight matrix of a model.

    Attributes:
        name: Name of the parameter in the model's own modules.
        weight: The parameter itself.
        inputs: Axes that are summed over. All numbers along them belong to one output.
    """

    name: str
    weight: nn.Parameter
    inputs: tuple[int, ...]


def weight_matrices(model: Wrapped) -> list[WeightMatrix]:
    """List every matrix that attention, MLPs and experts multiply by, each once.

    These are all linear layers, `Conv1D` layers and stacks of expert matrices, and the parts of a `HookedTransformer`
    that stand for them. Embeddings, the unembedding, norms, biases, and routers that are not linear layers are left
    out. A bridge that replaces a fused query-key-value matrix by three parts holds both; both are listed.

    Args:
        model: Hooked model, or an ensemble, whose members are searched.

    Raises:
        InputError: If none is found, or the axis of the inputs of a stack of expert matrices is not known.
    """
    found: dict[int, WeightMatrix] = {}
    for member in hooked.members_of(model) or (model,):
        apart = {id(p) for p in member.unembed.parameters()}
        for matrix in _of_modules(member):
            if id(matrix.weight) not in apart:
                found.setdefault(id(matrix.weight), matrix)
    if not found:
        raise InputError(f"no weight matrix found in this {type(model).__name__}; give a model with attention or MLPs")
    return list(found.values())


def _of_modules(model: Wrapped) -> Iterator[WeightMatrix]:
    """Yield the matrices of every module."""
    source = cast(nn.Module, model.original_model if hooked.is_bridge(model) else model)
    for prefix, module in source.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            axes = _inputs(module, name, weight)
            if axes is not None:
                yield WeightMatrix(f"{prefix}.{name}" if prefix else name, weight, axes)


def _inputs(module: nn.Module, name: str, weight: nn.Parameter) -> tuple[int, ...] | None:
    """Return the axes of a parameter's inputs; None if it is no weight matrix."""
    if isinstance(module, nn.Linear):
        return (1,) if weight.ndim == 2 else None  # [out, in]
    if isinstance(module, Conv1D):
        return (0,) if weight.ndim == 2 else None  # [in, out]
    if isinstance(module, AbstractAttention):
        # W_O is [head, d_head, d_model]: one output sums over all heads. The others are [head, d_model, d_head].
        return ((0, 1) if weight is module.W_O else (1,)) if weight.ndim == 3 else None
    if isinstance(module, CanBeUsedAsMLP):
        return (0,) if weight.ndim == 2 else None  # [in, out]
    if weight.ndim == 3 and getattr(module, "num_experts", None) == len(weight):
        return (_expert_inputs(module, name, weight),)
    return None


def _expert_inputs(module: nn.Module, name: str, weight: nn.Parameter) -> int:
    """Return the axis of the inputs of a stack of expert matrices `[expert, out, in]` or `[expert, in, out]`.

    Raises:
        InputError: If the module does not say which.
    """
    if hasattr(module, "is_transposed"):  # set by transformers' `use_experts_implementation`
        return 1 if module.is_transposed else 2
    sizes = (getattr(module, "output_size", None), getattr(module, "input_size", None))
    if sizes == tuple(weight.shape[1:]):
        return 2
    raise InputError(
        f"{type(module).__name__}.{name} is a stack of matrices of shape {tuple(weight.shape)}, and which axis holds "
        "the inputs is not known; use a model of linear layers, or leave out the probe"
    )
