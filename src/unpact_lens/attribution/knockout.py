"""Compute contributions by hiding a unit from attention, with all positions kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution.interventions import intervention_effects
from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.units import Example
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.hooked import Hooks


@attribution_method(
    "decrease when the unit is hidden from attention in every layer, positions kept",
    "Geva et al. 2023, arXiv 2304.14767",
)
def knockout(inputs: MethodInput, examples: Sequence[Example]) -> list[MethodOutput]:
    r"""Compute the effect of attention knockout: $C(x_i, y_k) = v_k(x) - v_k(x \text{ without attention to } x_i)$.

    In every layer and head, the score from each later position to the unit's tokens is $-\infty$ before the softmax.
    The tokens keep their positions and still attend to themselves and each other. The first answer token is predicted
    at the prompt's last token; the residual stream of that token itself remains.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Raises:
        InputError: If changed attention scores change no output of this model.

    Source: Geva et al. 2023, arXiv 2304.14767, Sec. 5 (attention knockout).
    """
    scores = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(inputs.model.cfg.n_layers)]
    require_acting_hooks(
        inputs.model, scores, feature="attribution method 'knockout'",
        remedy="use another method, e.g. 'leave_one_out', or load the model with wrap='hooked'",
    )  # fmt: skip

    def hooks(members: Bool[Tensor, "batch pos"]) -> Hooks:
        # A query outside the unit does not see the unit's keys.
        hidden = members[:, None, None, :] & ~members[:, None, :, None]  # [batch, 1, query, key]

        def hide(scores: Float[Tensor, "batch head query key"], hook: Any) -> Float[Tensor, "batch head query key"]:
            return scores.masked_fill(hidden, float("-inf"))

        return [(name, hide) for name in scores]

    return intervention_effects(inputs, examples, hooks)
