"""Score units by the change of each layer's output when their value vectors are zeroed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.mixing import at_answer, input_tokens, rollout, rows_to_shares
from unpact_lens.attribution.scorer import Scorer
from unpact_lens.attribution.targets import wide
from unpact_lens.attribution.units import Example
from unpact_lens.models import hooked


@attribution_method(
    "share of the change in a layer's output when the token's value vector is zeroed, multiplied over the layers",
    "Mohebbi et al. 2023, arXiv 2301.12971",
    unit="share",
    fixed_target="mixing share",
)
def value_zeroing(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute value zeroing, multiplied over the layers.

    $M^l_{qi} \propto 1 - \cos(h^l_q, \tilde h^{l,\neg i}_q)$, where $\tilde h^{l,\neg i}$ is the output of layer $l$
    when the value vectors of position $i$ are zero in that layer only. Rows sum to 1.
    $C(x_i, y_k) = [M^L \cdots M^1]_{t_k i}$.

    Args:
        inputs: Scorer of the model, which sets the batches.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, shares.

    Source: Mohebbi et al. 2023, arXiv 2301.12971.
    """
    outputs = []
    for example in examples:
        with torch.inference_mode():
            layers = [zeroing_matrix(inputs.local, example, layer) for layer in range(inputs.model.cfg.n_layers)]
        outputs.append(at_answer(example, rollout(layers)))
    return outputs


def zeroing_matrix(scorer: Scorer, example: Example, layer: int) -> Float[Tensor, "query key"]:
    """Compute one layer's mixing; each row of the batch zeroes the values of one position."""
    model, name = scorer.model, f"blocks.{layer}.hook_resid_post"
    tokens = input_tokens(model, example)
    length = tokens.shape[1]
    whole = hooked.collect(model, tokens, [name])[name][0]  # [pos, d_model]

    def distances(positions: list[int]) -> list[Tensor]:
        kept: list[Tensor] = []
        rows = torch.arange(len(positions))

        def zero(v: Tensor, hook: Any) -> Tensor:
            v = v.clone()  # [batch, pos, head, d_head]
            v[rows, positions] = 0
            return v

        def keep(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
            kept.append(1 - torch.cosine_similarity(wide(resid), wide(whole)[None], dim=-1))  # [batch, pos]

        hooks = [(f"blocks.{layer}.attn.hook_v", zero), (name, keep)]
        rows_of_tokens = tokens.expand(len(positions), -1)  # [batch, pos]
        hooked.run_with_hooks(model, rows_of_tokens, hooks, return_type="logits", stop_at_layer=layer + 1)
        return list(kept[0])

    scorer.settle([example.encoded])
    distance = torch.stack(scorer.in_batches([length] * length, distances), dim=1)  # [query, key]
    # Rounding leaves differences where causality allows none, and slightly negative ones.
    return rows_to_shares(distance.clamp(min=0).tril())
