r"""Attribution by gradients of the target with respect to the token embeddings.

$e_i$ is the embedding of token $i$ at `hook_embed`, before positions are added. The gradient towards each answer token
is taken apart, all in one batch: row $k$ of the batch is the same input, and only $v_k$ of row $k$ is summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.base import Outcome, Run
from unpact_lens.attribution.perturbation import EMBED, mean_embedding, one_token, unit_masks
from unpact_lens.attribution.targets import wide
from unpact_lens.attribution.units import Example
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.tokens import Text

BASELINES = ("zero", "mean")
"""Baselines of integrated gradients that have a name; any single token is one, too."""


def grad_norm(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Gradient norm: $C(x_i, y_k) = \|\partial v_k / \partial e_i\|_2$, never negative.

    The norm over a unit of several tokens is that of their gradients put together.

    Args:
        run: model and scorer.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit for each unit of embedding.

    Source: Simonyan et al. 2013, arXiv 1312.6034; Li et al. 2016, arXiv 1506.01066.
    """
    return [Outcome(_norms(example, Field(run, example).gradients())) for example in examples]


def grad_x_input(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Gradient times input: $C(x_i, y_k) = \partial v_k / \partial e_i \cdot e_i$, summed over the unit's tokens.

    Args:
        run: model and scorer.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Source: Shrikumar et al. 2016, arXiv 1605.01713.
    """
    fields = [Field(run, example) for example in examples]
    return [Outcome(_sums(f.example, f.gradients() * f.embed)) for f in fields]


def integrated_gradients(
    run: Run, examples: Sequence[Example], *, baseline: Text | int = "mean", steps: int = 50
) -> list[Outcome]:
    r"""Integrated gradients: the gradient along a path from a baseline, times the way.

    $C(x_i, y_k) = (e_i - e'_i) \cdot \int_0^1 \partial v_k/\partial e_i\big|_{e' + t(e-e')}\, dt$.
    The path leads from a baseline, at which all attributed tokens have the embedding $e'$ and the rest of the input
    stays, to the input; the integral is a Gauss-Legendre sum. Values over all tokens sum to $v(x) - v(x')$ but for
    `convergence_delta`, which shrinks with the steps.

    Args:
        run: model and scorer.
        examples: prompts with their answers, cut into units.
        baseline: `"mean"` (the vocabulary's mean embedding), `"zero"`, or one token as text or id. Where no positions
            are added (rotary models), zero is a point where the first norm is all but singular, and completeness bad.
        steps: points of the sum.

    Returns:
        Units x answer tokens, in the target's unit; with what their mean over the answer leaves unexplained.

    Raises:
        InputError: if the baseline is not known or not one token, or `steps` is below 1.

    Source: Sundararajan et al. 2017, arXiv 1703.01365, Eq. 1.
    """
    if steps < 1:
        raise InputError(f"steps={steps}; integrated gradients needs at least 1")
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    outcomes = []
    for example in examples:
        field = Field(run, example)
        inside = unit_masks(example, field.embed.device).any(0)
        start = torch.where(inside[:, None], baseline_embedding(run.model, baseline).to(field.embed), field.embed)
        path = field.embed - start
        total = torch.zeros_like(field.gradients())
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            total += weight * field.gradients(start + float(node) * path)
        values = _sums(example, total * path)
        gained = (field.values() - field.values(start)).mean()
        delta = float(values.mean(-1).sum() - gained)
        outcomes.append(Outcome(values, convergence_delta=delta, settings={"steps": steps, "baseline": str(baseline)}))
    return outcomes


def smoothgrad(run: Run, examples: Sequence[Example], *, samples: int = 16, sigma: float = 0.1) -> list[Outcome]:
    r"""SmoothGrad: $C(x_i, y_k) = \|\frac1S \sum_s \partial v_k / \partial e_i |_{e + \epsilon_s}\|_2$.

    $\epsilon_s$ is normal with `sigma` times the standard deviation of the prompt's embeddings. As sigma goes to 0 this
    becomes `grad_norm`.

    Args:
        run: model, scorer and seed.
        examples: prompts with their answers, cut into units.
        samples: noisy inputs, S.
        sigma: noise, relative to the spread of the embeddings.

    Returns:
        Units x answer tokens, in the target's unit for each unit of embedding.

    Raises:
        InputError: if `samples` is below 1 or `sigma` negative.

    Source: Smilkov et al. 2017, arXiv 1706.03825.
    """
    if samples < 1 or sigma < 0:
        raise InputError(f"samples={samples}, sigma={sigma}; smoothgrad needs samples >= 1 and sigma >= 0")
    outcomes = []
    for example in examples:
        field = Field(run, example)
        inside = unit_masks(example, field.embed.device).any(0)
        scale = sigma * field.embed[inside].std()
        generator = torch.Generator().manual_seed(run.seed)
        total = torch.zeros(())
        for _ in range(samples):
            noise = torch.randn(field.embed.shape, generator=generator, dtype=field.embed.dtype).to(field.embed.device)
            total = total + field.gradients(field.embed + torch.where(inside[:, None], scale * noise, 0.0))
        outcomes.append(Outcome(_norms(example, total / samples)))
    return outcomes


def baseline_embedding(model: Any, baseline: Text | int) -> Float[Tensor, " d_model"]:
    """The embedding that stands for "no token".

    Raises:
        InputError: if the baseline has no such name and is not one token.
    """
    if baseline == "zero":
        return torch.zeros(model.cfg.d_model)
    if baseline == "mean":
        return mean_embedding(model)
    if isinstance(baseline, str) and model.tokenizer is None:
        raise InputError(f"unknown baseline {baseline!r}; {nearest(baseline, BASELINES)}, or give a token id")
    token = torch.tensor([[one_token(model, baseline)]], device=hooked.device_of(model))
    with torch.no_grad():
        return model.embed(token)[0, 0]


class Field:
    """The target as a function of the token embeddings of one example.

    Attributes:
        example: prompt and answer.
        embed: the embeddings of its input, `[pos, d_model]`.
        count: how many values the target has: one for each answer token, or one.
    """

    def __init__(self, run: Run, example: Example) -> None:
        self.run, self.example = run, example
        device = hooked.device_of(run.model)
        ids = example.encoded.ids[:-1]
        self.tokens = torch.tensor([ids], device=device)
        self.answer = torch.tensor([example.encoded.answer], device=device)
        first = len(example.encoded.context) - 1
        self.positions = torch.arange(first, first + self.answer.shape[1], device=device)[None]
        with torch.no_grad():
            self.embed = hooked.collect(run.model, self.tokens, [EMBED])[EMBED][0].detach().clone()
        self.count = len(self.values())

    def values(self, embed: Float[Tensor, "pos d_model"] | None = None) -> Float[Tensor, " answer"]:
        """The target's values at some embeddings; at the input's own by default."""
        with torch.no_grad():
            return self._forward((self.embed if embed is None else embed)[None])[0]

    def gradients(self, embed: Float[Tensor, "pos d_model"] | None = None) -> Float[Tensor, "answer pos d_model"]:
        """The gradient of each of the target's values at some embeddings; at the input's own by default."""
        embed = self.embed if embed is None else embed
        # Backward keeps the activations of every layer.
        self.run.scorer.settle([self.example.encoded], passes=self.run.model.cfg.n_layers)

        def some(rows: list[int]) -> list[Tensor]:
            with torch.enable_grad():
                leaf = embed.expand(len(rows), -1, -1).clone().requires_grad_()
                values = self._forward(leaf)
                chosen = values[torch.arange(len(rows)), torch.tensor(rows)].sum()
                return list(wide(torch.autograd.grad(chosen, leaf)[0]))

        return torch.stack(self.run.scorer.in_batches([len(embed)] * self.count, some))

    def _forward(self, embed: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch answer"]:
        rows = len(embed)

        def put(_: Tensor, hook: Any) -> Tensor:
            return embed

        logits = hooked.logits_at(
            self.run.model, self.tokens.expand(rows, -1), self.positions.expand(rows, -1), [(EMBED, put)]
        )
        return self.run.scorer.target.values(logits, self.answer.expand(rows, -1))


def _norms(example: Example, gradients: Float[Tensor, "answer pos d_model"]) -> Float[Tensor, "unit answer"]:
    return _pooled(example, gradients.square().sum(-1)).sqrt()


def _sums(example: Example, products: Float[Tensor, "answer pos d_model"]) -> Float[Tensor, "unit answer"]:
    return _pooled(example, products.sum(-1))


def _pooled(example: Example, values: Float[Tensor, "answer pos"]) -> Float[Tensor, "unit answer"]:
    """Sum over the positions of each unit."""
    masks = unit_masks(example, values.device).to(values)
    return (masks @ values.T).cpu()
