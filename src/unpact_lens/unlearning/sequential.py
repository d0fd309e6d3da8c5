"""Unlearn several requests one after the other, and follow what stays forgotten and what is destroyed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.as_facts import FactSource, as_facts
from unpact_lens.data.benchmark import QA
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.registry import default_settings, find
from unpact_lens.unlearning.result import Unlearned
from unpact_lens.unlearning.settings import split
from unpact_lens.unlearning.unlearn import trained_model, unlearn


@dataclass(frozen=True, eq=False)
class UnlearnedSequence(Result):
    """Hold the result of several requests, one after the other.

    Attributes:
        runs: One run for each request. Each starts from the model of the run before.
        forgotten: Share of request j's facts that is wrong after request i, among those right at the start.
        destroyed: D after request i: the same share of the unseen facts. NaN if none were given. Sequences of version
            0.1 hold the share of the trained facts.
        destroyed_trained: D_trained after request i: the same share of the retain set. None in version 0.1.
    """

    runs: tuple[Unlearned, ...]
    forgotten: Float[Tensor, "after request"]
    destroyed: Float[Tensor, " after"]
    destroyed_trained: Float[Tensor, " after"] | None = None

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.runs)} requests",
                f"F of the last {float(self.forgotten[-1, -1]):.2f}",
                f"D {float(self.destroyed[-1]):.2f}",
            ]
        )

    @property
    def model(self) -> HookedModel:
        """Return the model after the last request."""
        return self.runs[-1].model

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each finished request: F of every request, D and D_trained."""
        frame = pd.DataFrame(self.forgotten.numpy(), columns=[f"F_{j}" for j in range(self.forgotten.shape[1])])
        frame = frame.assign(D=self.destroyed.numpy())
        if self.destroyed_trained is not None:
            frame = frame.assign(D_trained=self.destroyed_trained.numpy())
        return frame.assign(stopped=[u.stopped for u in self.runs])


def unlearn_sequence(
    model: HookedModel,
    requests: Sequence[FactSource],
    retain: FactSource,
    *,
    unseen: FactSource = (),
    method: str = "npo_gdr",
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> UnlearnedSequence:
    """Unlearn several forget sets, one after the other.

    Args:
        model: Hooked causal model; it is not changed.
        requests: Forget sets, in order, each in any form that `from_pairs` reads.
        retain: Facts to keep throughout, in the same forms; a retain term trains on them.
        unseen: Facts to keep that no training sees, e.g. `bench.unseen`; D is measured on them.
        method: Name of a method, see `methods()`; `"o3"` keeps an adapter for each request.
        checkpoint: Directory for the states of the runs, one directory for each request in it. If the call was killed,
            the same call resumes it and ends with the same weights.
        **options: All other arguments of `unlearn`, the same for each request.

    Returns:
        Every run, with F of each request, D and D_trained after it.

    Raises:
        InputError: If there is no request, the model knows no fact of one, or the method cannot start from its own
            result.
    """
    if not requests:
        raise InputError("there is no request; give at least one forget set")
    chosen = find(method)
    if len(requests) > 1 and chosen.combines and chosen.continues is None:
        raise InputError(
            f"method {method!r} leaves a combined model, from which no second request can start; use 'o3' or a method "
            "that trains the model"
        )
    shared = {k: v for k, v in options.items() if k not in _CALL}
    settings, _ = split(shared, default_settings(chosen, trained_model(model, shared), shared), chosen.options)
    parts = [as_facts(items, f"requests[{k}]", chat=settings.chat) for k, items in enumerate(requests)]
    given, held_out = (
        as_facts(items, what, chat=settings.chat) for what, items in (("retain", retain), ("unseen", unseen))
    )
    known = [FactsKnown(model, items, settings) for items in parts]
    kept = [FactsKnown(model, items, settings) if items else None for items in (held_out, given)]
    runs: list[Unlearned] = []
    forgotten, destroyed = [], []
    for k, items in enumerate(parts):
        state = None if checkpoint is None else Path(checkpoint) / f"request-{k}"
        start = runs[-1].model if runs else model
        runs.append(unlearn(start, items, given, method=method, checkpoint=state, **options))
        forgotten.append([1 - score(runs[-1].model) for score in known])
        destroyed.append([float("nan") if score is None else 1 - score(runs[-1].model) for score in kept])
    lost = torch.tensor(destroyed)  # [after, part]
    return UnlearnedSequence(tuple(runs), torch.tensor(forgotten), lost[:, 0], lost[:, 1])


def split_requests(items: Sequence[QA], n: int) -> list[list[QA]]:
    """Cut a forget set into requests with about equally many subjects. The facts of a subject stay together.

    Args:
        items: Forget set.
        n: Number of requests.

    Raises:
        InputError: If there are fewer subjects than requests.
    """
    subjects = list(dict.fromkeys(q.subject or q.id for q in items))
    if not 1 <= n <= len(subjects):
        raise InputError(f"requests={n}; the forget set has {len(subjects)} subjects, give 1 to {len(subjects)}")
    place = {subject: k * n // len(subjects) for k, subject in enumerate(subjects)}
    return [[q for q in items if place[q.subject or q.id] == request] for request in range(n)]


_CALL = (
    "seed", "stop_at", "forget_score", "retain_score", "track", "track_every", "checkpoint_every",
    "progress", "on_check", "keep",
)  # fmt: skip
"""Keyword arguments of `unlearn` that are not hyperparameters."""
