r"""O3: one low-rank adapter a request, orthogonal to those before it, applied only where the request is in question.

For each request: train adapters on the base model whose column space $A$ is orthogonal to that of every earlier
request's ($A_i^\top A_j = 0$, by projection after every step; the source uses a soft penalty), then remember where the
forget set stands in the base model's final residual stream. At inference each position is judged by itself: if its
residual is closer to a remembered one than the retain set comes, the adapted model predicts there, else the base.

The source judges whole prompts by a detector with models of its own; judging positions by the base model's residual
needs no other model, and works with cached generation.

Source: Gao et al. 2024, arXiv 2407.10223.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.results import storable
from unpact_lens.unlearning.adapters import Adapters
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.ensembles import Together

MAX_KEYS = 4096
"""Remembered positions of one request."""

Bases = Mapping[str, Float[Tensor, "rows rank"]]
"""For each adapted weight, an orthonormal basis of all that adapters span there."""


class Orthogonal:
    """Keeps adapters orthogonal to earlier ones.

    Args:
        adapters: of the request being trained.
        earlier: bases of the requests before.

    Raises:
        InputError: if a weight has no dimensions left for the rank.
    """

    def __init__(self, adapters: Adapters, earlier: Bases) -> None:
        self.pairs = [(a.A, earlier[n]) for n, a in adapters.by_name().items() if n in earlier]
        for name, adapter in adapters.by_name().items():
            rows, rank, taken = *adapter.A.shape, earlier[name].shape[1] if name in earlier else 0
            if taken + rank > rows:
                raise InputError(f"rank={rank}: earlier requests take {taken} of the {rows} dimensions of {name}; "
                                 f"give a rank of at most {rows - taken}")  # fmt: skip
        self.settle()

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Gradients stay as they are."""

    def settle(self) -> None:
        """Take out of every A what earlier adapters span. Twice: once leaves rounding errors behind."""
        with torch.no_grad():
            for a, basis in self.pairs:
                for _ in range(2):
                    a.sub_(basis @ (basis.T @ a))


def joined(earlier: Bases, adapters: Adapters) -> dict[str, Tensor]:
    """Orthonormal bases of what earlier adapters and these span."""
    both = {}
    for name, adapter in adapters.by_name().items():
        q, _ = torch.linalg.qr(adapter.A.detach())
        both[name] = torch.cat([earlier[name], q], dim=1) if name in earlier else q
    return {**earlier, **both}


@storable
@dataclass(init=False, repr=False, eq=False)
class Gated(Together):
    """A base model, and for each request an adapted one that predicts where the request is in question.

    Attributes:
        members: the base, then one model a request.
        keys: for each request, unit residuals of the base at the forget answers' positions, around `centre`.
        thresholds: for each request, the cosine above which a position belongs to it.
        centre: mean residual that cosines are taken around.
        bases: what the adapters of all requests span, by weight.
    """

    keys: tuple[Float[Tensor, "key d_model"], ...]
    thresholds: tuple[float, ...]
    centre: Float[Tensor, " d_model"]
    bases: dict[str, Tensor]
    members: tuple[Any, ...] = Together.members  # type: ignore[assignment]

    def __init__(
        self,
        members: Sequence[Any],
        keys: Sequence[Tensor],
        thresholds: Sequence[float],
        centre: Tensor,
        bases: Bases,
    ) -> None:
        super().__init__(members)
        self.keys, self.thresholds, self.centre, self.bases = tuple(keys), tuple(thresholds), centre, dict(bases)

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """The base's logits, and the adapted model's where its request is in question (the closest, if several are)."""
        logits = hooked.unembed(self.members[0], parts[0])
        best = torch.zeros(logits.shape[:-1], device=logits.device)
        for member, part, keys, threshold in zip(self.members[1:], parts[1:], self.keys, self.thresholds, strict=True):
            margin = closeness(parts[0], keys, self.centre) - threshold
            logits = torch.where((margin > best)[..., None], hooked.unembed(member, part), logits)
            best = torch.maximum(best, margin)
        return logits


def closeness(
    resid: Float[Tensor, "*batch d_model"], keys: Float[Tensor, "key d_model"], centre: Float[Tensor, " d_model"]
) -> Float[Tensor, "*batch"]:
    """Cosine to the closest key, around the centre."""
    around = torch.nn.functional.normalize(resid - centre, dim=-1)
    return (around @ keys.T).amax(-1).float()


def gate(base: Any, adapted: Any, forget: Examples, retain: Examples, bases: Bases, earlier: Gated | None) -> Gated:
    """Put the model of a new request beside those of earlier ones.

    Args:
        base: the model before all requests.
        adapted: the base with the new request's adapters merged.
        forget: the request; its positions become keys.
        retain: what must not be taken for it: the threshold is the cosine that 1% of its positions exceed.
        bases: what the adapters of all requests span.
        earlier: the gated model before, if this is not the first request.
    """
    near, far = torch.cat(list(forget.residuals)), torch.cat(list(retain.residuals))
    centre = earlier.centre if earlier else torch.cat([near, far]).mean(0)
    keys = torch.nn.functional.normalize(near - centre, dim=-1)
    keys = keys[torch.linspace(0, len(keys) - 1, min(len(keys), MAX_KEYS)).long()]
    threshold = float(closeness(far, keys, centre).quantile(0.99))
    old = earlier.members[1:] if earlier else ()
    return Gated(
        (base, *old, adapted),
        (*(earlier.keys if earlier else ()), keys),
        (*(earlier.thresholds if earlier else ()), threshold),
        centre,
        bases,
    )
