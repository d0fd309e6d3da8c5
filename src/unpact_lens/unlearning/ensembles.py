"""Let several models predict together and look like one.

A `CombinedModel` offers the part of a model that scoring, generation and attribution rely on. Its residual stream is
that of all members side by side, after their last blocks, and hooks there work as on one model. Its unembedding lets
each member predict and combines their logits. It has no components to decompose.

A subclass may let its members read something else than the given text (`readings`): more tokens, or the same under
interventions. Forward pass and generation both follow it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel, Hooks
from unpact_lens.models.reading import Reading
from unpact_lens.results import storable
from unpact_lens.unlearning import losses


class LacksPartError(InputError, AttributeError):
    """Signal that a part of one model was asked of several that predict together."""


class CombinedModel(nn.Module):
    """Combine hooked models that predict as one; subclasses define the formula.

    Attributes:
        reads_as_given: Whether all members read the given ids without interventions. If False, `readings` says what
            they read.

    Args:
        members: Hooked models of any kind with one vocabulary. Tokenizer and BOS convention are those of the first.

    Raises:
        InputError: If a member is itself a combined model, or the vocabularies differ.
    """

    reads_as_given: ClassVar[bool] = True

    def __init__(self, members: Sequence[HookedModel]) -> None:
        super().__init__()
        if several := [type(m).__name__ for m in members if isinstance(m, CombinedModel)]:
            raise InputError(f"{several[0]} is itself a combined model; give its members one by one")
        sizes = [m.cfg.d_vocab for m in members]
        if len(set(sizes)) > 1:
            raise InputError(f"logits are added, but the models' vocabularies have {sizes} entries; use one tokenizer")
        self.parts = nn.ModuleList(cast("Sequence[nn.Module]", members))
        self.tokenizer = members[0].tokenizer
        self.cfg = copy.copy(members[0].cfg)
        self.cfg.n_layers = sum(m.cfg.n_layers for m in members)
        self.cfg.n_ctx = min(m.cfg.n_ctx for m in members)
        self.cfg.output_logits_soft_cap = -1.0  # type: ignore[attr-defined]  # each member applies its own
        self.train(any(m.training for m in members))

    def __getattr__(self, name: str) -> Any:
        """Refuse what single models have and this one lacks, such as blocks, hooks inside and weight matrices.

        Raises:
            LacksPartError: If there is no such attribute.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise LacksPartError(
                f"a {type(self).__name__} has no {name!r}: it is a combined model; examine one of its members, "
                "model.members"
            ) from None

    @property
    def members(self) -> tuple[HookedModel, ...]:
        """Return the models, in the order of the formula."""
        return tuple(cast("Iterable[HookedModel]", self.parts))

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute logits from the members' final residuals."""
        raise NotImplementedError

    def readings(self, texts: Sequence[Sequence[int]]) -> list[Reading]:
        """Return what each member reads for these texts.

        Args:
            texts: Ids of each text, without padding on the left.
        """
        return [Reading(texts)] * len(self.members)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        return_type: str | None = "logits",
        fwd_hooks: Hooks = (),
    ) -> Tensor | None:
        """Compute next-token logits.

        Args:
            tokens: Input ids.
            return_type: `"logits"`, or None to return nothing.
            fwd_hooks: Hooks on the final residual stream.

        Raises:
            InputError: If a hook is on anything else.
        """
        last = hooked.final_hook(self)
        for name, _ in fwd_hooks:
            if name != last:
                raise InputError(f"hook {name!r}: a combined model has only {last!r}; examine one of its members")
        resid = torch.cat(list(self._residuals(tokens)), dim=-1)  # [batch, pos, sum of d_model]
        for _, hook in fwd_hooks:
            changed = hook(resid, None)
            resid = resid if changed is None else changed
        return hooked.unembed(self, resid) if return_type == "logits" else None

    def run_with_hooks(self, tokens: Int[Tensor, "batch pos"], **kwargs: Any) -> Tensor | None:
        """Compute next-token logits with `fwd_hooks`, as `forward` does."""
        logits: Tensor | None = self(tokens, **kwargs)
        return logits

    def ln_final(self, resid: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d"]:
        """Return the residual stream unchanged: each member normalises its own part in `unembed`."""
        return resid

    def unembed(self, resid: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Combine the members' logits."""
        return self.combine(resid.split([m.cfg.d_model for m in self.members], dim=-1))

    def _residuals(self, tokens: Int[Tensor, "batch pos"]) -> Iterator[Float[Tensor, "batch pos _"]]:
        """Yield the final residual of each member, with a gradient only where the member is being trained."""
        width, given = tokens.shape[1], tokens.tolist() if not self.reads_as_given else ()
        for member, reading in zip(self.members, self.readings(given), strict=True):
            read = tokens if self.reads_as_given else torch.tensor(reading.texts, device=tokens.device)
            trained = any(p.requires_grad for p in member.parameters())
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                yield hooked.final_residual(member, read, reading.hooks)[:, -width:]  # [batch, pos, d_model]


@storable
@dataclass(init=False, repr=False, eq=False)
class Ensemble(CombinedModel):
    r"""Combine the logits of several models by one formula.

    `offset`: $z_{big} + w\,(z_{small'} - z_{small})$ of (big, small tuned, small). `whp`: $z_b - w\,\mathrm{ReLU}(z_r -
    z_b)$ of (base, reinforced).

    Attributes:
        kind: `"offset"` or `"whp"`.
        weight: Weight w.
        members: Models in the order of the formula.
    """

    kind: str
    weight: float
    members: tuple[HookedModel, ...] = CombinedModel.members  # type: ignore[assignment]

    def __init__(self, kind: str, weight: float, members: Sequence[HookedModel]) -> None:
        super().__init__(members)
        self.kind, self.weight = kind, float(weight)

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute logits from the members' final residuals, by the formula of this kind."""
        z = [hooked.unembed(m, part) for m, part in zip(self.members, parts, strict=True)]
        if self.kind == "offset":
            return z[0] + self.weight * (z[1] - z[2])
        return losses.whp_target(z[0], z[1], self.weight)
