"""Request after request: what was forgotten first, is it still forgotten, and what is left of the rest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.results import Result
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.methods import find
from unpact_lens.unlearning.result import Unlearned
from unpact_lens.unlearning.settings import split
from unpact_lens.unlearning.unlearn import unlearn


@dataclass(frozen=True, eq=False)
class UnlearnedSequence(Result):
    """What became of a model under several requests, one after the other.

    Attributes:
        runs: one for each request; each starts from the model that the one before left.
        forgotten: after request i, the share of request j's facts that is wrong, of those right at the very start.
        destroyed: after request i, the same share of the retain set.
    """

    runs: tuple[Unlearned, ...]
    forgotten: Float[Tensor, "after request"]
    destroyed: Float[Tensor, " after"]

    @property
    def model(self) -> Any:
        """The model after the last request."""
        return self.runs[-1].model

    def to_frame(self) -> pd.DataFrame:
        """One row for each request that was carried out: F of every request, and D."""
        frame = pd.DataFrame(self.forgotten.numpy(), columns=[f"F_{j}" for j in range(self.forgotten.shape[1])])
        return frame.assign(D=self.destroyed.numpy(), stopped=[u.stopped for u in self.runs])


def unlearn_sequence(
    model: Any,
    requests: Sequence[Sequence[QA]],
    retain: Sequence[QA],
    *,
    method: str = "npo_gdr",
    **options: Any,
) -> UnlearnedSequence:
    """Unlearn several forget sets, one after the other.

    Args:
        model: a hooked causal model; it is not changed.
        requests: the forget sets, in order.
        retain: what is to be kept throughout.
        method: a name of `methods()`; `"o3"` keeps an adapter for each request.
        **options: everything else that `unlearn` takes, for each request alike.

    Returns:
        Each run, and F and D of all requests after each.

    Raises:
        InputError: if there is no request, one holds no fact that the model knows, or the method cannot go on from its
            own result.
    """
    if not requests:
        raise InputError("there is no request; give at least one forget set")
    method_ = find(method)
    if len(requests) > 1 and (method_.kind == "inference" or method_.wrap is not None):
        raise InputError(
            f"method {method!r} leaves several models that predict together, from which no second request can start; "
            "use 'o3' or a method that trains the model"
        )
    shared = {k: v for k, v in options.items() if k not in _CALL}
    settings, _ = split(shared, method_.defaults, method_.options)
    known = [FactsKnown(model, items, settings) for items in requests]
    kept = FactsKnown(model, retain, settings)
    runs: list[Unlearned] = []
    forgotten, destroyed = [], []
    for items in requests:
        runs.append(unlearn(runs[-1].model if runs else model, items, retain, method=method, **options))
        forgotten.append([1 - score(runs[-1].model) for score in known])
        destroyed.append(1 - kept(runs[-1].model))
    return UnlearnedSequence(tuple(runs), torch.tensor(forgotten), torch.tensor(destroyed))


def split_requests(items: Sequence[QA], n: int) -> list[list[QA]]:
    """Cut a forget set into requests of about as many subjects each; a subject's facts stay together.

    Args:
        items: the forget set.
        n: how many requests.

    Raises:
        InputError: if there are fewer subjects than requests.
    """
    subjects = list(dict.fromkeys(q.subject or q.id for q in items))
    if not 1 <= n <= len(subjects):
        raise InputError(f"requests={n}; the forget set has {len(subjects)} subjects, give 1 to {len(subjects)}")
    place = {subject: k * n // len(subjects) for k, subject in enumerate(subjects)}
    return [[q for q in items if place[q.subject or q.id] == request] for request in range(n)]


_CALL = (
    "seed", "stop_at", "forget_score", "retain_score", "track", "track_every", "checkpoint", "checkpoint_every",
    "progress",
)  # fmt: skip
"""Keywords of `unlearn` that are not settings."""
