r"""Differentiate the target with respect to the token embeddings, for the gradient methods.

$e_i$ is the embedding of token $i$ at `hook_embed`, before positions are added. The gradients of all answer tokens come
from one batch: each row $k$ holds the same input, and only $v_k$ of row $k$ enters the sum that is differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.scorer import Scorer
from unpact_lens.attribution.targets import wide
from unpact_lens.attribution.units import Example, unit_masks
from unpact_lens.models import hooked
from unpact_lens.models.hooked import EMBED


class EmbeddingTarget:
    """Evaluate the target of one example as a function of its token embeddings.

    Attributes:
        example: Prompt and answer.
        embed: Embeddings of the input, `[pos, d_model]`.
        count: Number of values of the target: one for each answer token, or one.
    """

    def __init__(self, scorer: Scorer, example: Example) -> None:
        self.scorer, self.example = scorer, example
        device = hooked.device_of(scorer.model)
        ids = example.encoded.ids[:-1]
        self.tokens = torch.tensor([ids], device=device)  # [1, pos]
        self.answer = torch.tensor([example.encoded.answer], device=device)  # [1, answer]
        first = len(example.encoded.context) - 1
        self.positions = torch.arange(first, first + self.answer.shape[1], device=device)[None]  # [1, answer]
        with torch.no_grad():
            self.embed = hooked.collect(scorer.model, self.tokens, [EMBED])[EMBED][0].detach().clone()
        self.count = len(self.values())

    def values(self, embed: Float[Tensor, "pos d_model"] | None = None) -> Float[Tensor, " answer"]:
        """Compute the target's values at some embeddings, by default the input's own."""
        with torch.no_grad():
            return self._forward((self.embed if embed is None else embed)[None])[0]

    def gradients(self, embed: Float[Tensor, "pos d_model"] | None = None) -> Float[Tensor, "answer pos d_model"]:
        """Compute the gradient of each of the target's values at some embeddings, by default the input's own."""
        embed = self.embed if embed is None else embed
        # The backward pass keeps the activations of every layer.
        self.scorer.settle([self.example.encoded], passes=self.scorer.model.cfg.n_layers)

        def some(rows: list[int]) -> list[Tensor]:
            with torch.enable_grad():
                leaf = embed.expand(len(rows), -1, -1).clone().requires_grad_()  # [row, pos, d_model]
                values = self._forward(leaf)  # [row, answer]
                chosen = values[torch.arange(len(rows)), torch.tensor(rows)].sum()
                return list(wide(torch.autograd.grad(chosen, leaf)[0]))

        return torch.stack(self.scorer.in_batches([len(embed)] * self.count, some))

    def _forward(self, embed: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch answer"]:
        rows = len(embed)

        def put(_: Tensor, hook: Any) -> Tensor:
            return embed

        logits = hooked.logits_at(
            self.scorer.model, self.tokens.expand(rows, -1), self.positions.expand(rows, -1), [(EMBED, put)]
        )  # [batch, answer, d_vocab]
        return self.scorer.target.values(logits, self.answer.expand(rows, -1))


def norms(example: Example, gradients: Float[Tensor, "answer pos d_model"]) -> Float[Tensor, "unit answer"]:
    """Compute the norm of each unit's gradient, the gradients of its tokens concatenated."""
    return _pooled(example, gradients.square().sum(-1)).sqrt()


def sums(example: Example, products: Float[Tensor, "answer pos d_model"]) -> Float[Tensor, "unit answer"]:
    """Sum products over the dimensions and tokens of each unit."""
    return _pooled(example, products.sum(-1))


def _pooled(example: Example, values: Float[Tensor, "answer pos"]) -> Float[Tensor, "unit answer"]:
    """Sum over the positions of each unit."""
    masks = unit_masks(example, values.device).to(values)  # [unit, pos]
    return (masks @ values.T).cpu()
