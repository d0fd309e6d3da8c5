r"""Register O3: one low-rank adapter for each request, orthogonal to earlier ones, used only where it is needed.

Algorithm, for each request:
    1. Train adapters on the base model whose column space $A$ is orthogonal to that of every earlier request:
       $A_i^\top A_j = 0$, by projection after every step. The source uses a soft penalty.
    2. Remember the base model's final residuals at the positions of the forget answers (the keys).
    3. At inference, judge each position by itself. If its residual is closer to a key than the retain set comes, the
       adapted model predicts there, otherwise the base model.

The source judges whole prompts by a detector with models of its own. Judging positions by the base model's residual
needs no other model, and works with cached generation.

Source: Gao et al. 2024, arXiv 2407.10223.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import storable
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.adapters import Adapters
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.job import Plan
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import retain_nll
from unpact_lens.unlearning.trainer import Options, Run

RANK = 8
"""Default rank of a request's adapters."""

MAX_KEYS = 4096
"""Largest number of keys of one request."""

Bases = Mapping[str, Float[Tensor, "rows rank"]]
"""For each adapted weight, an orthonormal basis of the space that all adapters span there."""


class Orthogonal:
    """Keep adapters orthogonal to those of earlier requests.

    Args:
        adapters: Adapters of the request being trained.
        earlier: Bases of the earlier requests.

    Raises:
        InputError: If a weight has too few dimensions left for the rank.
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
        """Leave the gradients as they are."""

    def settle(self) -> None:
        """Remove from every A what earlier adapters span. Project twice: once leaves rounding errors behind."""
        with torch.no_grad():
            for a, basis in self.pairs:
                for _ in range(2):
                    a.sub_(basis @ (basis.T @ a))  # [rows, rank]


def joined(earlier: Bases, adapters: Adapters) -> dict[str, Tensor]:
    """Return orthonormal bases of the space that earlier adapters and these span together."""
    both = {}
    for name, adapter in adapters.by_name().items():
        q, _ = torch.linalg.qr(adapter.A.detach())
        both[name] = torch.cat([earlier[name], q], dim=1) if name in earlier else q
    return {**earlier, **both}


@storable
@dataclass(init=False, repr=False, eq=False)
class Gated(CombinedModel):
    """Combine a base model with one adapted model for each request, which predicts where its request is in question.

    Attributes:
        members: Base model, then one model for each request.
        keys: For each request, unit residuals of the base model at the forget answers' positions, around `centre`.
        thresholds: For each request, the cosine above which a position belongs to it.
        centre: Mean residual, subtracted before cosines are taken.
        bases: For each adapted weight, a basis of the space that the adapters of all requests span.
    """

    keys: tuple[Float[Tensor, "key d_model"], ...]
    thresholds: tuple[float, ...]
    centre: Float[Tensor, " d_model"]
    bases: dict[str, Tensor]
    members: tuple[HookedModel, ...] = CombinedModel.members  # type: ignore[assignment]

    def __init__(
        self,
        members: Sequence[HookedModel],
        keys: Sequence[Tensor],
        thresholds: Sequence[float],
        centre: Tensor,
        bases: Bases,
    ) -> None:
        super().__init__(members)
        self.keys, self.thresholds, self.centre, self.bases = tuple(keys), tuple(thresholds), centre, dict(bases)

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the base model's logits, and those of the adapted model of the closest request where one is near."""
        logits = hooked.unembed(self.members[0], parts[0])
        best = torch.zeros(logits.shape[:-1], device=logits.device)  # [batch, pos]
        for member, part, keys, threshold in zip(self.members[1:], parts[1:], self.keys, self.thresholds, strict=True):
            margin = closeness(parts[0], keys, self.centre) - threshold  # [batch, pos]
            logits = torch.where((margin > best)[..., None], hooked.unembed(member, part), logits)
            best = torch.maximum(best, margin)
        return logits


def closeness(
    resid: Float[Tensor, "*batch d_model"], keys: Float[Tensor, "key d_model"], centre: Float[Tensor, " d_model"]
) -> Float[Tensor, "*batch"]:
    """Compute the cosine of each residual with the closest key, around the centre."""
    around = torch.nn.functional.normalize(resid - centre, dim=-1)
    return (around @ keys.T).amax(-1).float()  # over keys


@dataclass(frozen=True)
class Request:
    """Hold what the gate of a new request is built from.

    Attributes:
        adapted: Base model with the request's adapters merged.
        forget: Forget set of the request; its positions become keys.
        retain: Retain set. The threshold is the cosine that 1% of its positions exceed.
    """

    adapted: HookedModel
    forget: Examples
    retain: Examples


def gate(base: HookedModel, request: Request, bases: Bases, earlier: Gated | None) -> Gated:
    """Put the model of a new request beside those of earlier requests.

    Args:
        base: Original model, before all requests.
        request: New request.
        bases: Bases of the space that the adapters of all requests span.
        earlier: Gated model of the earlier requests, or None if this is the first.
    """
    near, far = torch.cat(list(request.forget.residuals)), torch.cat(list(request.retain.residuals))
    centre = earlier.centre if earlier else torch.cat([near, far]).mean(0)
    keys = torch.nn.functional.normalize(near - centre, dim=-1)
    keys = keys[torch.linspace(0, len(keys) - 1, min(len(keys), MAX_KEYS)).long()]
    threshold = float(closeness(far, keys, centre).quantile(0.99))
    old = earlier.members[1:] if earlier else ()
    return Gated(
        (base, *old, request.adapted),
        (*(earlier.keys if earlier else ()), keys),
        (*(earlier.thresholds if earlier else ()), threshold),
        centre,
        bases,
    )


def base_of(model: HookedModel, options: Options) -> HookedModel:
    """Return the base model of a gated model; any other model is its own base."""
    return model.members[0] if isinstance(model, Gated) else model


def train_behind_gate(plan: Plan) -> Run:
    """Train adapters orthogonal to earlier ones, and put the adapted model behind a gate."""
    job, settings, checks = plan.job, plan.job.settings, plan.checks
    earlier = job.given if isinstance(job.given, Gated) else None
    taken = earlier.bases if earlier else {}
    adapters = Adapters(plan.after, settings.modules, settings.rank or RANK, settings.lora_alpha, job.seed)
    run = plan.train(dataclasses.replace(settings, modules=None), Orthogonal(adapters, taken))
    bases = joined(taken, adapters)
    adapters.merge()
    forget, retain = plan.terms
    model = gate(clone(job.before), Request(plan.after, forget.data, retain.data), bases, earlier)
    done = max((int(row["step"]) for row in run.rows), default=0)
    run.rows.append({"step": done, **checks.take(model, done, last=True)})
    if run.stopped == "forget level reached" and checks.verdict(run.rows[-1]) != run.stopped:
        run.stopped = "forget level reached by the adapters, but not behind the gate"
    run.model = model
    return run


METHODS.add(
    "o3",
    Method(
        "o3",
        "one low-rank adapter a request, orthogonal to earlier ones, used only where the request is in question",
        "γ·[mean log p] + α·[−mean log p on D_r] on adapters with A_iᵀA_j = 0",
        "Gao et al. 2024, arXiv 2407.10223",
        forget=lambda view, options: losses.gradient_ascent(view.log_probs, view.mask),
        retain=retain_nll,
        defaults={"rank": RANK, "lr": 1e-4},
        start=base_of,
        carry_out=train_behind_gate,
        combines=True,
        continues=Gated,
        note="orthogonal by projection, where the source has a soft penalty; the gate compares the base model's final "
        "residual at each position with the forget set's, where the source trains a detector of its own. For a "
        "second request, pass the model of the first.",
    ),
)
