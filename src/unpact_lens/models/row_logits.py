"""Compute next-token logits of padded rows, with gradients: on the source model of a bridge where that is exact."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.models import hooked
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.source_model import row_attention, run, source_model, unembedded


def row_logits(
    model: HookedModel, tokens: Int[Tensor, "row pos"], positions: Int[Tensor, "row keep"]
) -> Float[Tensor, "row keep d_vocab"]:
    """Compute next-token logits at chosen positions; the other positions are not unembedded.

    A bridge without hooks runs its source model: fused attention, and no hook points. All other models run as they are.

    Args:
        model: Hooked causal model.
        tokens: Input ids, padded on the right.
        positions: For each row, the positions whose logits are wanted.

    Returns:
        Logits, after the model's final soft-cap if it has one.
    """
    source = source_model(model, with_gradients=True)
    if source is None:
        return hooked.logits_at(model, tokens, positions)
    tokens = tokens.to(source.hf.get_input_embeddings().weight.device)
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    with exclusive(model):
        normed = run(source, row_attention, tokens, places)  # [row, pos, d_model]
        return unembedded(source, hooked.take_positions(normed, positions))
