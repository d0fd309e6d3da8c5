"""Integrate the gradient along a path from a baseline embedding to the token's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.gradients import EmbeddingTarget, sums
from unpact_lens.attribution.mean_embed import mean_embedding
from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.replace import one_token
from unpact_lens.attribution.units import Example, unit_masks
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text

BASELINES = ("zero", "mean")
"""Named baselines; any single token is also accepted."""


@attribution_method(
    "gradients integrated from a baseline embedding to the token's, times the difference",
    "Sundararajan et al. 2017, arXiv 1703.01365",
)
def integrated_gradients(
    inputs: MethodInput, examples: Sequence[Example], *, baseline: Text | int = "mean", steps: int = 50
) -> list[MethodOutput]:
    r"""Compute integrated gradients of the target with respect to the token embeddings.

    $C(x_i, y_k) = (e_i - e'_i) \cdot \int_0^1 \partial v_k/\partial e_i\big|_{e' + t(e-e')}\, dt$.
    At the start of the path, all attributed tokens have the baseline embedding $e'$; the rest of the input is
    unchanged. The integral is a Gauss-Legendre sum. Values over all tokens sum to $v(x) - v(x')$, except for
    `convergence_delta`, which shrinks with the number of steps.

    Args:
        inputs: Scorer of the target.
        examples: Prompts with their answers, cut into units.
        baseline: `"mean"` (the vocabulary's mean embedding), `"zero"`, or one token as text or id. Without position
            embeddings (rotary models), the first norm is nearly singular at zero, and completeness is poor.
        steps: Number of points of the sum.

    Returns:
        Units x answer tokens, in the target's unit. `convergence_delta` is what their mean over the answer leaves
        unexplained.

    Raises:
        InputError: If the baseline is unknown or not one token, or `steps` is below 1.

    Source: Sundararajan et al. 2017, arXiv 1703.01365, Eq. 1.
    """
    if steps < 1:
        raise InputError(f"steps={steps}; integrated gradients needs at least 1 step")
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    outputs = []
    for example in examples:
        function = EmbeddingTarget(inputs.local, example)
        embed = function.embed
        inside = unit_masks(example, embed.device).any(0)  # [pos]
        start = torch.where(inside[:, None], baseline_embedding(inputs.model, baseline).to(embed), embed)
        path = embed - start  # [pos, d_model]
        total = torch.zeros_like(function.gradients())  # [answer, pos, d_model]
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            total += weight * function.gradients(start + float(node) * path)
        values = sums(example, total * path)
        gained = (function.values() - function.values(start)).mean()
        delta = float(values.mean(-1).sum() - gained)
        settings = {"steps": steps, "baseline": str(baseline)}
        outputs.append(MethodOutput(values, convergence_delta=delta, settings=settings))
    return outputs


def baseline_embedding(model: HookedModel, baseline: Text | int) -> Float[Tensor, " d_model"]:
    """Return the embedding that represents "no token".

    Raises:
        InputError: If the baseline is neither a known name nor one token.
    """
    if isinstance(baseline, str) and baseline == "zero":
        return torch.zeros(model.cfg.d_model)
    if isinstance(baseline, str) and baseline == "mean":
        return mean_embedding(model)
    if isinstance(baseline, str) and model.tokenizer is None:
        raise InputError(f"unknown baseline {baseline!r}; {nearest(baseline, BASELINES)}, or give a token id")
    token = torch.tensor([[one_token(model, baseline)]], device=hooked.device_of(model))  # [1, 1]
    with torch.no_grad(), exclusive(model):
        embedding: Tensor = model.embed(token)[0, 0]
    return embedding
