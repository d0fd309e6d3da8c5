"""Measure the effect of intervening on a unit inside the model, for the methods that hide or overwrite activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.attribution.methods import MethodInput, MethodOutput
from unpact_lens.attribution.units import Example, unit_masks
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.hooked import EMBED, Hooks


def intervention_effects(
    inputs: MethodInput, examples: Sequence[Example], hooks: Callable[[Bool[Tensor, "batch pos"]], Hooks]
) -> list[MethodOutput]:
    """Compute the decrease of the target when hooks intervene at the positions of each unit.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.
        hooks: Function from the positions to intervene at, for each row of a batch, to the hooks that do so.
    """
    outputs = []
    for example in examples:
        masks = unit_masks(example, hooked.device_of(inputs.model))
        masks = torch.cat([torch.zeros_like(masks[:1]), masks])  # [1 + unit, pos]; row 0 intervenes nowhere

        def chosen(rows: Int[Tensor, " batch"], masks: Bool[Tensor, "row pos"] = masks) -> Hooks:
            return hooks(masks[rows])

        values = inputs.local.intervened(example.encoded, len(masks), chosen)
        outputs.append(MethodOutput(values[0] - torch.stack(values[1:])))
    return outputs


def embedding_effects(
    inputs: MethodInput, examples: Sequence[Example], value: Float[Tensor, "*d_model"]
) -> list[MethodOutput]:
    """Compute the decrease of the target when the token embeddings of each unit become `value`."""
    require_acting_hooks(
        inputs.model, [EMBED], feature="an attribution method that replaces embeddings", remedy="use 'leave_one_out'"
    )

    def hooks(members: Bool[Tensor, "batch pos"]) -> Hooks:
        def overwrite(embed: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch pos d_model"]:
            return torch.where(members[..., None], value.to(embed), embed)

        return [(EMBED, overwrite)]

    return intervention_effects(inputs, examples, hooks)
