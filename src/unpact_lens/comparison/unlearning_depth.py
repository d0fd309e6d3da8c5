r"""Unlearning depth: at which layers is what was to be forgotten erased as deep as in a model that never learned it?

For each layer l, the full model answers with its hidden state after l replaced, at every position, by the retrain
model's (Δ1: what its mean log-probability of the answer loses) and by the unlearned model's (Δ2). Over the layers where
the retrain model's state matters, $\Delta_1 > \tau$,

$$\mathrm{UDS} = \frac{\sum_l \Delta_1\,\mathrm{clip}(\Delta_2/\Delta_1, 0, 1)}{\sum_l \Delta_1}:$$

0 where the unlearned model's states still hold the answer, 1 where they hold as little as the retrain model's.

Source: arXiv 2605.24614 (UDS).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.questions import questions
from unpact_lens.comparison.result import beside_floor
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition.intervene import activations, replaced_one_at_a_time
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded, Text, encode
from unpact_lens.results import Result
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS
from unpact_lens.stats.intervals import clustered_means, require_level

THRESHOLD = 0.05
"""τ: layers where the retrain model's state costs less than this, in nats, say nothing."""


@dataclass(frozen=True, eq=False)
class UnlearningDepth(Result):
    """UDS of an unlearned model, item by item and layer by layer.

    Attributes:
        scores: `[item]`, 0 (still there) to 1 (as deep as retraining); NaN where no layer passes the threshold.
        delta_retrain: `[item, layer]`, Δ1, nats.
        delta_unlearned: `[item, layer]`, Δ2, nats.
        threshold: τ, nats.
        ids: the items' ids.
        labels: the layers.
        mean: `[mean, low, high, n]` of the scores over the items for which they are defined, bootstrap interval over
            subjects.
        layers: `[2, layer, 4]`, the same of Δ1 and Δ2 at each layer, nats.
        level: confidence of the intervals.
        floor: UDS of a model that differs from its full model by noise only, against the same retrain model; or None.
    """

    figure: ClassVar[str | None] = "interventions:unlearning_depth"

    scores: Float[Tensor, " item"]
    delta_retrain: Float[Tensor, "item layer"]
    delta_unlearned: Float[Tensor, "item layer"]
    threshold: float
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    mean: Float[Tensor, " 4"]
    layers: Float[Tensor, "2 layer 4"]
    level: float = 0.95
    floor: UnlearningDepth | None = None

    @property
    def score(self) -> float:
        """Mean over the items for which it is defined; NaN where there are none."""
        return float(self.mean[0])

    def to_frame(self) -> pd.DataFrame:
        """One row an item, its floor beside it where there is one."""
        return beside_floor(pd.DataFrame({"id": self.ids, "uds": self.scores.tolist()}), self.floor, ("uds",))

    def layers_frame(self) -> pd.DataFrame:
        """One row a layer: Δ1 and Δ2 with their intervals, nats; the floor's Δ2 where there is one."""
        frame = pd.DataFrame({"layer": self.labels})
        for name, values in zip(("delta_retrain", "delta_unlearned"), self.layers, strict=True):
            for end, column in zip(("", "_low", "_high"), values.T, strict=False):
                frame[name + end] = column.tolist()
        if self.floor is not None:
            frame["delta_floor"] = self.floor.layers[1, :, 0].tolist()
        return frame


def unlearning_depth(
    full: Any,
    retrain: Any,
    unlearned: Any,
    items: Iterable[QA | tuple[Text, Text]],
    *,
    threshold: float = THRESHOLD,
    floor: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> UnlearningDepth:
    """UDS over a data set, one question at a time: only numbers of each are kept.

    Args:
        full: the model before unlearning, in which states are replaced.
        retrain: a model that never learned the answers.
        unlearned: the model judged.
        items: `QA` items, or `(prompt, answer)` pairs; any iterable, read once.
        threshold: τ, nats.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text): the first stands for `full`, the second for `unlearned`, so it says what depth noise alone reaches.
        level: confidence of the intervals.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if there are no items, the threshold is negative, or the models are not comparable.
    """
    if threshold < 0:
        raise InputError(f"threshold={threshold}; give a number of nats, 0 or more")
    require_level(level)
    require_comparable(full, retrain)
    require_comparable(full, unlearned)
    runs = [(full, unlearned), *([] if floor is None else [floor_of(full, floor)])]
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in runs]
    ids: list[str] = []
    subjects: list[str] = []
    for q in questions(items):
        example = encode(full, q.prompt, q.answer, chat=chat, prefill=prefill)
        ids.append(q.id)
        subjects.append(q.subject)
        for (recipient, judged), kept in zip(runs, found, strict=True):
            of_retrain, of_judged = (_loss_by_layer(recipient, d, example, batch_tokens) for d in (retrain, judged))
            kept.append((of_retrain, of_judged))
    names = (tuple(ids), tuple(f"L{layer}" for layer in range(full.cfg.n_layers)))
    depths = [_depth(kept, threshold, names, subjects, level, resamples, seed) for kept in found]
    return replace(depths[0], floor=depths[1] if floor is not None else None)


def _depth(
    found: Sequence[tuple[Tensor, Tensor]],
    threshold: float,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    subjects: Sequence[str],
    level: float,
    resamples: int,
    seed: int,
) -> UnlearningDepth:
    """UDS and its intervals from Δ1 and Δ2 of each item."""
    of_retrain, of_unlearned = (torch.stack([pair[k] for pair in found]) for k in range(2))
    scores = depth_score(of_retrain, of_unlearned, threshold)
    draw = (subjects, level, resamples, seed)
    return UnlearningDepth(
        scores=scores,
        delta_retrain=of_retrain,
        delta_unlearned=of_unlearned,
        threshold=threshold,
        ids=names[0],
        labels=names[1],
        mean=clustered_means(scores[:, None], *draw)[0],
        layers=torch.stack([clustered_means(side, *draw) for side in (of_retrain, of_unlearned)]),
        level=level,
    )


def depth_score(
    delta_retrain: Float[Tensor, "item layer"], delta_unlearned: Float[Tensor, "item layer"], threshold: float
) -> Float[Tensor, " item"]:
    """The formula above, for each item; NaN where no layer passes the threshold."""
    counts = delta_retrain > threshold
    # Divided by 1 where it does not count: a Δ1 of zero must not make NaN of the layers that do.
    ratio = (delta_unlearned / torch.where(counts, delta_retrain, torch.ones_like(delta_retrain))).clamp(0, 1)
    weight = torch.where(counts, delta_retrain, torch.zeros_like(delta_retrain))
    return (weight * ratio).sum(1) / weight.sum(1)


def _loss_by_layer(full: Any, donor: Any, example: Encoded, batch_tokens: int) -> Float[Tensor, " layer"]:
    """What the full model's mean log-probability loses with the donor's state after each layer, nats."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(full.cfg.n_layers)]
    given = activations(donor, example, names)
    places: list[tuple[str, tuple[Any, ...]]] = [(name, ()) for name in names]
    scores = replaced_one_at_a_time(full, example, given, places, batch_tokens=batch_tokens).mean(-1)
    return scores[0] - scores[1:]
