"""Bound where and how far training may move the weights: named parts only, a penalty on the change, a largest change.

Names of parts are those of `decompose` and `ablate`: `"embed"`, `"unembed"`, `"L0.attn"` and `"L0.mlp"` (all weights of
the layer), `"L1H3"` (the query and output weights of a head, and the key and value weights that it reads), `"L0N17"`
(the input, gate and output weights of a neuron).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.weight_matrices import weight_matrices
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainable import readable_names

PART = re.compile(r"embed|unembed|L(?P<layer>\d+)(\.(?P<sublayer>attn|mlp)|H(?P<head>\d+)|N(?P<neuron>\d+))")
"""Form of a part's name."""

OUTPUTS = ("W_out", "out")
"""Names of an MLP's output matrix, in a `HookedTransformer` and in a bridge."""


class Bounds:
    """Apply the settings `only`, `anchor` and `radius` to every step.

    Args:
        model: Model being trained, at its start.
        params: Weights to be updated, by name.
        distinct: The same without the second copies of tied weights.
        settings: Hyperparameters of the run.

    Raises:
        InputError: If a part does not exist or holds no trained weight, or adapters are trained.
    """

    def __init__(
        self, model: HookedModel, params: Mapping[str, Parameter], distinct: Sequence[Parameter], settings: Settings
    ) -> None:
        self.anchor, self.radius = settings.anchor, settings.radius
        self.masks = {} if settings.only is None else part_masks(model, settings.only, params)
        self.moving = list(distinct) if self.anchor or self.radius is not None else []
        self.start = [p.detach().clone() for p in self.moving]

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Add the gradient of the penalty, and remove the gradient of what is not trained."""
        for p, start in zip(self.moving, self.start, strict=True):
            if self.anchor:
                pull = self.anchor * (p.detach() - start)
                p.grad = pull if p.grad is None else p.grad + pull
        for name, mask in self.masks.items():
            grad = params[name].grad
            if grad is not None:
                params[name].grad = torch.where(mask, grad, 0.0)

    def settle(self, params: Mapping[str, Parameter], earlier: Sequence[Tensor]) -> None:
        """Put back what is not trained, and scale a change that is too large.

        Args:
            params: Weights after the update, by name.
            earlier: Their values before it, in the same order.
        """
        with torch.no_grad():
            if self.masks:
                for (name, p), was in zip(params.items(), earlier, strict=True):
                    p.copy_(torch.where(self.masks[name], p, was))
            if self.radius is not None:
                limit = self.radius * norm_of(self.start)
                size = norm_of([p - start for p, start in zip(self.moving, self.start, strict=True)])
                if size > limit:
                    for p, start in zip(self.moving, self.start, strict=True):
                        p.copy_(start + (p - start) * (limit / size))


def norm_of(tensors: Sequence[Tensor]) -> float:
    """Compute the Euclidean norm of all entries together."""
    return float(torch.stack([t.detach().double().square().sum().cpu() for t in tensors]).sum().sqrt())


def part_masks(model: HookedModel, parts: Sequence[str], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return for each trained weight which of its entries belong to the parts.

    Args:
        model: Hooked model.
        parts: Names of parts, e.g. `"L0.mlp"`, `"L1H3"`, `"L0N17"`.
        params: Trained weights by name.

    Returns:
        Boolean tensors of the shapes of the weights, by the same names.

    Raises:
        InputError: If a name has no such form, the part does not exist, it holds no trained weight, or its entries are
            not known (heads of a bridge).
    """
    masks = {name: torch.zeros(p.shape, dtype=torch.bool, device=p.device) for name, p in params.items()}
    short = readable_names(model)
    by_name = {short.get(name, name): mask for name, mask in masks.items()}
    rows = {short.get(name, name): name for name in params}
    inputs = _input_axes(model) if any("N" in part for part in parts) else {}
    for part in parts:
        found = PART.fullmatch(part)
        if found is None:
            raise InputError(
                f"only={part!r} names no part; use embed, unembed, L0.attn, L0.mlp, L0H0 (a head) or L0N0 (a neuron)"
            )
        check_part(model, part, found)
        taken = False
        for name, mask in by_name.items():
            at = _entries(name, mask, found, int(model.cfg.n_heads), inputs.get(rows[name]))
            if at is not None:
                mask[at] = True
                taken = True
        if not taken:
            raise InputError(f"only={part!r} holds no weight that is trained; leave it out, or change modules=")
    return masks


def _entries(
    name: str, mask: Tensor, part: re.Match[str], n_heads: int, inputs: tuple[int, ...] | None
) -> tuple[int | slice[None, None, None] | EllipsisType, ...] | None:
    """Return the index of a part's entries in a weight; None if the weight is no part of it.

    Args:
        name: TransformerLens name of the weight.
        mask: Tensor of its shape.
        part: Match of `PART`.
        n_heads: Number of heads of a layer; fewer keys and values are shared by several heads.
        inputs: Axes of the weight's inputs, where they are known.
    """
    if part["layer"] is None:
        return (...,) if name.startswith(f"{part.group()}.") else None
    prefix = f"blocks.{part['layer']}."
    if part["sublayer"]:
        return (...,) if name.startswith(f"{prefix}{part['sublayer']}.") else None
    if part["head"]:
        mine = name.startswith(f"{prefix}attn.") and not name.endswith("b_O")
        return (int(part["head"]) * mask.shape[0] // n_heads,) if mine else None
    axis = _neuron_axis(name, mask, prefix, inputs)
    return None if axis is None else (slice(None),) * axis + (int(part["neuron"]),)


def check_part(model: HookedModel, part: str, found: re.Match[str]) -> None:
    """Raise an error if a part does not exist in the model, or its entries are not known.

    Raises:
        InputError: With what exists.
    """
    cfg = model.cfg
    for what, count in (("layer", cfg.n_layers), ("head", cfg.n_heads), ("neuron", cfg.d_mlp)):
        if found[what] is not None and int(found[what]) >= int(count):
            raise InputError(f"only={part!r}: the model has {what}s 0 to {int(count) - 1}")
    if found["head"] is not None and hooked.is_bridge(model):
        raise InputError(
            f"only={part!r}: the weights of one head of a bridge are not told apart; load the model with "
            'wrap="hooked", or use L0.attn'
        )


def _input_axes(model: HookedModel) -> dict[str, tuple[int, ...]]:
    """Return the axes of the inputs of each weight matrix, by the name of the parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(m.weight)]: m.inputs for m in weight_matrices(model) if id(m.weight) in names}


def _neuron_axis(name: str, mask: Tensor, prefix: str, inputs: tuple[int, ...] | None) -> int | None:
    """Return the axis along which a weight of an MLP lists neurons; None for other weights."""
    if not name.startswith(f"{prefix}mlp.") or name.endswith("b_out"):
        return None
    if mask.ndim == 1:
        return None if name.endswith("out.bias") else 0
    if inputs is None or mask.ndim != 2:
        return None
    is_output = any(leaf in OUTPUTS for leaf in name.split("."))
    return inputs[0] if is_output else 1 - inputs[0]
