"""Keep the embedding and the unembedding of a tied model one weight.

A tied model reads tokens and predicts them with one matrix. A `HookedTransformer` stores it twice, as `W_E`
`[d_vocab, d_model]` and as `W_U` `[d_model, d_vocab]`, with $W_U = W_E^T$, and its flag `tied_embeddings` is set. What
changes one copy must change the other. A bridge holds the single weight of its Hugging Face model and needs no care.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import Parameter

from unpact_lens.models import hooked

EMBEDDING, UNEMBEDDING = "embed.W_E", "unembed.W_U"
"""Names of the two copies in a tied `HookedTransformer`."""


def shares_embedding(hf: nn.Module) -> bool:
    """Return whether a Hugging Face model uses one weight for its input and output embeddings."""
    output = hf.get_output_embeddings()  # type: ignore[operator]
    return output is not None and output.weight is hf.get_input_embeddings().weight  # type: ignore[operator]


def is_tied(model: object) -> bool:
    """Return whether a hooked model's embedding and unembedding must stay equal."""
    return bool(getattr(model, "tied_embeddings", False))


def tied_names(model: object) -> tuple[str, ...]:
    """Return the names of the two copies of a tied model's embedding; of an untied model, none."""
    return (EMBEDDING, UNEMBEDDING) if is_tied(model) else ()


class TiedEmbedding:
    """Keep both copies of a tied embedding equal during training.

    The gradient of the shared weight is the sum of the gradients of both copies. The optimiser gets the embedding only,
    so weight decay, moments and gradient norm count the shared weight once.

    Args:
        model: Hooked model, or several that predict together (`parts`). Untied models are left alone.
        params: Trained parameters by name. Afterwards it holds both copies of a tied weight, or neither.
    """

    def __init__(self, model: object, params: dict[str, Parameter]) -> None:
        self.pairs: list[tuple[Parameter, Parameter]] = []
        parts = {f"parts.{i}.": part for i, part in enumerate(getattr(model, "parts", ()))} or {"": model}
        for prefix, part in parts.items():
            if not is_tied(part) or hooked.is_bridge(part):
                continue
            embed, unembed = prefix + EMBEDDING, prefix + UNEMBEDDING
            if embed in params or unembed in params:
                params[embed], params[unembed] = part.embed.W_E, part.unembed.W_U
                self.pairs.append((params[embed], params[unembed]))

    def distinct(self, params: Mapping[str, Parameter]) -> list[Parameter]:
        """Return the parameters without the second copies of tied weights."""
        second = {id(unembed) for _, unembed in self.pairs}
        return [p for p in params.values() if id(p) not in second]

    def fold_gradient(self) -> None:
        """Add each unembedding's gradient to its embedding's."""
        for embed, unembed in self.pairs:
            if unembed.grad is not None:
                folded = unembed.grad.T  # [d_vocab, d_model]
                embed.grad = folded.clone() if embed.grad is None else embed.grad + folded
                unembed.grad = None

    def copy_weight(self) -> None:
        """Copy each embedding to its unembedding."""
        with torch.no_grad():
            for embed, unembed in self.pairs:
                unembed.copy_(embed.T)  # [d_model, d_vocab]
