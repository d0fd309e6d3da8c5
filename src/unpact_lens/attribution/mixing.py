"""Trace information from input tokens to answer positions by mixing matrices, for the attention methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.attribution.methods import MethodOutput
from unpact_lens.attribution.units import Example, unit_masks
from unpact_lens.decomposition.logit_direction import LogitDirection
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel


def rollout(layers: Sequence[Float[Tensor, "query key"]]) -> Float[Tensor, "query key"]:
    """Multiply mixing matrices, the last layer first: the share of each input in each output."""
    total = layers[0]
    for mixing in layers[1:]:
        total = mixing @ total
    return total


def rows_to_shares(mixing: Float[Tensor, "query key"]) -> Float[Tensor, "query key"]:
    """Divide each row by its sum; a row of zeros is assigned to its own position."""
    sums = mixing.sum(-1, keepdim=True)  # [query, 1]
    return torch.where(sums > 0, mixing / sums.clamp(min=1e-300), torch.eye(len(mixing)).to(mixing))


def answer_direction(example: Example) -> LogitDirection:
    """Return the logit of every answer token as what is decomposed."""
    return LogitDirection(example.encoded, tuple(range(len(example.encoded.answer))), None, None)


def input_tokens(model: HookedModel, example: Example) -> Int[Tensor, "1 pos"]:
    """Return the ids that the model reads: everything but the last answer token."""
    return torch.tensor([example.encoded.ids[:-1]], device=hooked.device_of(model))


def at_answer(example: Example, mixing: Float[Tensor, "query key"]) -> MethodOutput:
    """Take the rows that predict the answer, summed over the tokens of each unit."""
    return pooled(example, mixing[list(answer_direction(example).positions)].T)  # [key, answer]


def pooled(example: Example, values: Float[Tensor, "pos answer"]) -> MethodOutput:
    """Sum values over the tokens of each unit."""
    return MethodOutput((unit_masks(example, values.device).to(values) @ values).cpu())  # [unit, answer]
