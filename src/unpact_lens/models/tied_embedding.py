r"""Keep the embedding and the unembedding of a tied model one weight.

A tied model reads tokens and predicts them with one matrix. A `HookedTransformer` stores it twice, as `W_E`
`[d_vocab, d_model]` and as `W_U` `[d_model, d_vocab]`, with $W_E = c\, W_U^T$, and its flag `tied_embeddings` is set.
The factor c is 1, but in Gemma, which multiplies its embedding, it is $\sqrt{d_\mathrm{model}}$. What changes one copy
must change the other. A bridge holds the single weight of its Hugging Face model and needs no care.
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


def embedding_scale(model: object) -> float:
    r"""Return the factor c in $W_E = c\, W_U^T$ of a tied `HookedTransformer`."""
    return float(getattr(model, "embedding_scale", 1.0))


def tied_names(model: object) -> tuple[str, ...]:
    """Return the names of the two copies of a tied model's embedding; of an untied model, none."""
    return (EMBEDDING, UNEMBEDDING) if is_tied(model) else ()


class TiedEmbedding:
    """Keep both copies of a tied embedding equal during training.

    The gradient of the shared weight is the sum of the gradients of both copies. The optimiser gets one copy only, so
    weight decay, moments and gradient norm count the shared weight once. That copy is the embedding, or the unembedding
    where the embedding is a multiple of the shared weight (Gemma).

    Args:
        model: Hooked model, or several that predict together (`parts`). Untied models are left alone.
        params: Trained parameters by name. Afterwards it holds both copies of a tied weight, or neither.
    """

    def __init__(self, model: object, params: dict[str, Parameter]) -> None:
        self.pairs: list[tuple[Parameter, Parameter, float]] = []
        parts = {f"parts.{i}.": part for i, part in enumerate(getattr(model, "parts", ()))} or {"": model}
        for prefix, part in parts.items():
            if not is_tied(part) or hooked.is_bridge(part):
                continue
            embed, unembed = prefix + EMBEDDING, prefix + UNEMBEDDING
            if embed in params or unembed in params:
                params[embed], params[unembed] = part.embed.W_E, part.unembed.W_U
                scale = embedding_scale(part)
                trained, copy = (embed, unembed) if scale == 1.0 else (unembed, embed)
                self.pairs.append((params[trained], params[copy], scale))

    def distinct(self, params: Mapping[str, Parameter]) -> list[Parameter]:
        """Return the parameters without the second copies of tied weights."""
        second = {id(copy) for _, copy, _ in self.pairs}
        return [p for p in params.values() if id(p) not in second]

    def fold_gradient(self) -> None:
        """Add the gradient of each second copy to that of the trained one."""
        for trained, copy, scale in self.pairs:
            if copy.grad is not None:
                folded = copy.grad.T if scale == 1.0 else copy.grad.T * scale  # the shape of `trained`
                trained.grad = folded.clone() if trained.grad is None else trained.grad + folded
                copy.grad = None

    def copy_weight(self) -> None:
        """Copy each trained weight to its second copy."""
        with torch.no_grad():
            for trained, copy, scale in self.pairs:
                copy.copy_(trained.T if scale == 1.0 else trained.T * scale)
