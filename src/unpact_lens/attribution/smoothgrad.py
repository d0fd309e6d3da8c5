"""Score units by the norm of the gradient averaged over noisy embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.attribution.gradients import EmbeddingTarget, norms
from unpact_lens.attribution.methods import MethodInput, MethodOutput, attribution_method
from unpact_lens.attribution.units import Example, unit_masks
from unpact_lens.errors import InputError


@attribution_method(
    "norm of the gradient, averaged over noisy embeddings",
    "Smilkov et al. 2017, arXiv 1706.03825",
    unit="unit of the target per unit of embedding",
)
def smoothgrad(
    inputs: MethodInput, examples: Sequence[Example], *, samples: int = 16, sigma: float = 0.1
) -> list[MethodOutput]:
    r"""Compute SmoothGrad: $C(x_i, y_k) = \|\frac1S \sum_s \partial v_k / \partial e_i |_{e + \epsilon_s}\|_2$.

    $\epsilon_s$ is normal noise with standard deviation `sigma` times that of the prompt's embeddings. As sigma goes to
    0, this becomes `grad_norm`.

    Args:
        inputs: Scorer of the target, and seed.
        examples: Prompts with their answers, cut into units.
        samples: Number of noisy inputs, S.
        sigma: Standard deviation of the noise, relative to that of the embeddings.

    Returns:
        Units x answer tokens, in the target's unit per unit of embedding.

    Raises:
        InputError: If `samples` is below 1 or `sigma` is negative.

    Source: Smilkov et al. 2017, arXiv 1706.03825.
    """
    if samples < 1 or sigma < 0:
        raise InputError(f"samples={samples}, sigma={sigma}; smoothgrad needs samples >= 1 and sigma >= 0")
    outputs = []
    for example in examples:
        function = EmbeddingTarget(inputs.local, example)
        embed = function.embed
        inside = unit_masks(example, embed.device).any(0)  # [pos]
        scale = sigma * embed[inside].std()
        generator = torch.Generator().manual_seed(inputs.seed)
        total = torch.zeros(())
        for _ in range(samples):
            noise = torch.randn(embed.shape, generator=generator, dtype=embed.dtype).to(embed.device)
            total = total + function.gradients(embed + torch.where(inside[:, None], scale * noise, 0.0))
        outputs.append(MethodOutput(norms(example, total / samples)))
    return outputs
