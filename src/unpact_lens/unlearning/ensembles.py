r"""Unlearning at inference: several models predict together, and look like one.

`Together` satisfies the surface that scoring, generation and attribution rely on. Its residual stream is that of all
members side by side, after their last blocks; hooks there work as on one model, and its unembedding lets the members
predict and combines what they say. It has no components to decompose.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.results import storable
from unpact_lens.unlearning import losses


class Together(nn.Module):
    """Hooked models that predict as one; subclasses say how.

    Args:
        members: hooked models of any kind with one vocabulary; the first lends its tokenizer and BOS convention.

    Raises:
        InputError: if a member is itself several models, or vocabularies differ.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        if several := [type(m).__name__ for m in members if isinstance(m, Together)]:
            raise InputError(
                f"{several[0]} is already several models that predict together; give its members one by one"
            )
        sizes = [m.cfg.d_vocab for m in members]
        if len(set(sizes)) > 1:
            raise InputError(f"logits are added, but the models' vocabularies have {sizes} entries; use one tokenizer")
        self.parts = nn.ModuleList(members)
        self.tokenizer = members[0].tokenizer
        self.cfg = copy.copy(members[0].cfg)
        self.cfg.n_layers = sum(m.cfg.n_layers for m in members)
        self.cfg.n_ctx = min(m.cfg.n_ctx for m in members)
        self.cfg.output_logits_soft_cap = -1.0
        self.train(any(m.training for m in members))

    @property
    def members(self) -> tuple[Any, ...]:
        """The models, in the order of the formula."""
        return tuple(self.parts)

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits from the members' final residuals."""
        raise NotImplementedError

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        return_type: str | None = "logits",
        fwd_hooks: Sequence[tuple[str, Any]] = (),
    ) -> Tensor | None:
        """Next-token logits.

        Args:
            tokens: input ids.
            return_type: `"logits"`, or None for nothing.
            fwd_hooks: on the final residual only.

        Raises:
            InputError: for a hook elsewhere.
        """
        last = hooked.final_hook(self)
        for name, _ in fwd_hooks:
            if name != last:
                raise InputError(
                    f"hook {name!r}: models that predict together share only {last!r}; examine one of them"
                )
        resid = torch.cat(list(self._residuals(tokens)), dim=-1)
        for _, hook in fwd_hooks:
            changed = hook(resid, None)
            resid = resid if changed is None else changed
        return hooked.unembed(self, resid) if return_type == "logits" else None

    def run_with_hooks(self, tokens: Tensor, **kwargs: Any) -> Any:
        """The same as calling it."""
        return self(tokens, **kwargs)

    def ln_final(self, resid: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d"]:
        """Nothing: each member normalises its own part in `unembed`."""
        return resid

    def unembed(self, resid: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d_vocab"]:
        """The members' logits, combined."""
        return self.combine(resid.split([m.cfg.d_model for m in self.members], dim=-1))

    def _residuals(self, tokens: Int[Tensor, "batch pos"]) -> Iterator[Float[Tensor, "batch pos _"]]:
        """Final residual of each member, with a gradient only where the member is being trained."""
        for member in self.members:
            trained = any(p.requires_grad for p in member.parameters())
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                yield hooked.final_residual(member, tokens)


@storable
@dataclass(init=False, repr=False, eq=False)
class Ensemble(Together):
    r"""Models whose logits are combined by one formula.

    `offset`: $z_{big} + w\,(z_{small'} - z_{small})$ of (big, small tuned, small). `whp`: $z_b - w\,\mathrm{ReLU}(z_r -
    z_b)$ of (base, reinforced).

    Attributes:
        kind: `"offset"` or `"whp"`.
        weight: w.
        members: as `Together` takes them, in the order of the formula.
    """

    kind: str
    weight: float
    members: tuple[Any, ...] = Together.members  # type: ignore[assignment]

    def __init__(self, kind: str, weight: float, members: Sequence[Any]) -> None:
        super().__init__(members)
        self.kind, self.weight = kind, float(weight)

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """The formula of its kind."""
        z = [hooked.unembed(m, part) for m, part in zip(self.members, parts, strict=True)]
        if self.kind == "offset":
            return z[0] + self.weight * (z[1] - z[2])
        return losses.whp_target(z[0], z[1], self.weight)


def offset(big: Any, small_after: Any, small_before: Any, weight: float = 1.0) -> Ensemble:
    r"""$z = z_{big} + w\,(z_{small'} - z_{small})$: what a small model unlearned, carried over to a big one.

    Args:
        big: the model to use; never trained.
        small_after: a small model of the same vocabulary after unlearning.
        small_before: the same before.
        weight: w; equal small models, or 0, give the big model exactly.

    Raises:
        InputError: if the models cannot be combined; see `Together`.

    Source: Huang et al. 2024, arXiv 2404.11045.
    """
    return Ensemble("offset", weight, (big, small_after, small_before))


def whp(base: Any, reinforced: Any, alpha: float = 5.0) -> Ensemble:
    r"""$z_b - \alpha\,\mathrm{ReLU}(z_r - z_b)$ as predictions, with no training of the base.

    Args:
        base: the model before.
        reinforced: the same trained further on the forget set.
        alpha: strength; 0 is the base.

    Raises:
        InputError: if the models cannot be combined; see `Together`.

    Source: Eldan and Russinovich 2023, arXiv 2310.02238; MUSE, arXiv 2407.06460.
    """
    return Ensemble("whp", alpha, (base, reinforced))
