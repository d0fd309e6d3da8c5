"""Compute contributions by setting a unit's token embeddings to the vocabulary's mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.interventions import embedding_effects
from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.units import Example
from unpact_lens.models import hooked
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel


@attribution_method(
    "decrease when the unit's token embeddings are the vocabulary's mean",
    "Wang et al. 2022, arXiv 2211.00593",
)
def mean_embed(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute the effect of mean embeddings: $C(x_i, y_k) = v_k(x) - v_k(x \text{ with } e_i = \bar e)$.

    $\bar e$ is the mean token embedding over the vocabulary.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Source: Mean ablation as in Wang et al. 2022, arXiv 2211.00593, applied to token embeddings.
    """
    return embedding_effects(inputs, examples, mean_embedding(inputs.model))


def mean_embedding(model: HookedModel) -> Float[Tensor, " d_model"]:
    """Compute the mean token embedding over the vocabulary, as it appears at `hook_embed`."""
    every = torch.arange(model.cfg.d_vocab, device=hooked.device_of(model))[None]  # [1, d_vocab]
    with torch.no_grad(), exclusive(model):
        mean: Tensor = model.embed(every)[0].mean(0)
    return mean
