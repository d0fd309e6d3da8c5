r"""Unlearning Depth Score (UDS): how completely each layer lost the answer, relative to a retrained model.

For each layer l, the original model answers with its hidden state after l replaced at every position: by the retrained
model's state (Δ1: the loss of the answer's mean log-probability) and by the unlearned model's state (Δ2). Over the
layers where the retrained model's state matters, $\Delta_1 > \tau$,

$$\mathrm{UDS} = \frac{\sum_l \Delta_1\,\mathrm{clip}(\Delta_2/\Delta_1, 0, 1)}{\sum_l \Delta_1}:$$

0 if the unlearned model's states still hold the answer, 1 if they hold as little as the retrained model's.

Source: arXiv 2605.24614 (UDS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.comparison.model_pair import ModelPair, require_comparable
from unpact_lens.comparison.noise_columns import beside_floor
from unpact_lens.comparison.question import Items, questions
from unpact_lens.comparison.sample import Sample
from unpact_lens.decomposition.intervene import activations, replaced_one_at_a_time
from unpact_lens.display import estimate, joined
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded
from unpact_lens.results import Result
from unpact_lens.stats.intervals import require_level

THRESHOLD = 0.05
"""τ, nats: layers where the retrained model's state costs less than this are left out."""


@dataclass(frozen=True, eq=False)
class UnlearningDepth(Result):
    """Hold the UDS of an unlearned model, for each item and layer.

    Attributes:
        scores: `[item]`, 0 (answer still there) to 1 (lost as in the retrained model); NaN if no layer passes the
            threshold.
        delta_retrain: `[item, layer]`, Δ1, nats.
        delta_unlearned: `[item, layer]`, Δ2, nats.
        threshold: τ, nats.
        ids: Ids of the items.
        labels: Names of the layers.
        mean: `[mean, low, high, n]` of the defined scores, with a bootstrap interval over subjects.
        layers: `[2, layer, 4]`, the same for Δ1 and Δ2 at each layer, nats.
        level: Confidence level of the intervals.
        floor: UDS of a model that differs from its original model by noise only, relative to the same retrained
            model; or None.
    """

    figure: ClassVar[str | None] = "unlearning_depth:unlearning_depth"

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

    def _brief(self) -> str:
        return joined(
            [
                f"UDS {estimate(self.mean)}",
                f"{len(self.ids)} items",
                "" if self.floor is None else f"noise baseline {self.floor.score:.2f}",
            ]
        )

    @property
    def score(self) -> float:
        """Mean over the items for which the score is defined; NaN if there are none."""
        return float(self.mean[0])

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per item, beside the noise baseline if there is one."""
        return beside_floor(pd.DataFrame({"id": self.ids, "uds": self.scores.tolist()}), self.floor, ("uds",))

    def layers_frame(self) -> pd.DataFrame:
        """Make a table with one row per layer: Δ1 and Δ2 with their intervals, nats; Δ2 of the noise baseline."""
        frame = pd.DataFrame({"layer": self.labels})
        for name, values in zip(("delta_retrain", "delta_unlearned"), self.layers, strict=True):
            for end, column in zip(("", "_low", "_high"), values.T, strict=False):
                frame[name + end] = column.tolist()
        if self.floor is not None:
            frame["delta_floor"] = self.floor.layers[1, :, 0].tolist()
        return frame


def unlearning_depth(
    full: HookedModel,
    retrain: HookedModel,
    unlearned: HookedModel,
    items: Items,
    *,
    threshold: float = THRESHOLD,
    floor: Sequence[HookedModel] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    **asking: Unpack[AskingOptions],
) -> UnlearningDepth:
    """Compute UDS over a data set, one question at a time; only numbers of each are kept.

    Args:
        full: Original model, in which states are replaced.
        retrain: Retrained model, which never learned the answers.
        unlearned: Unlearned model, which is judged.
        items: Facts in any form that `from_pairs` reads. The pairs of a list are taken as they are. An iterator is read
            once.
        threshold: τ, nats.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text). The first replaces `full`, the second `unlearned`, which gives the depth
            that noise alone reaches.
        level: Confidence level of the intervals.
        resamples: Number of bootstrap resamples over subjects.
        seed: Random seed of the bootstrap.
        **asking: `chat`, `prefill` and `batch_tokens`; see `AskingOptions`.

    Raises:
        InputError: If there are no items, the threshold is negative, or the models are not comparable.
    """
    if threshold < 0:
        raise InputError(f"threshold={threshold}; give a number of nats, 0 or more")
    require_level(level)
    asked = Asking(**asking)
    require_comparable(full, retrain)
    pair = ModelPair.of(full, unlearned, floor=floor)
    runs = [pair] if pair.noise is None else [pair, pair.noise]
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in runs]
    names: list[tuple[str, str]] = []
    for q in questions(items):
        example = asked.encode(full, q.prompt, q.answer)
        names.append((q.id, q.subject))
        for run, kept in zip(runs, found, strict=True):
            of_retrain, of_judged = (
                _loss_by_layer(run.before, donor, example, asked.batch_tokens) for donor in (retrain, run.after)
            )
            kept.append((of_retrain, of_judged))
    sample = Sample.of(names, level, resamples, seed)
    labels = tuple(f"L{layer}" for layer in range(full.cfg.n_layers))
    depths = [_depth(kept, threshold, labels, sample) for kept in found]
    return depths[0] if pair.noise is None else replace(depths[0], floor=depths[1])


def _depth(
    found: Sequence[tuple[Tensor, Tensor]], threshold: float, labels: tuple[str, ...], sample: Sample
) -> UnlearningDepth:
    """Compute UDS and its intervals from Δ1 and Δ2 of each item."""
    of_retrain, of_unlearned = (torch.stack([pair[k] for pair in found]) for k in range(2))  # each [item, layer]
    scores = depth_score(of_retrain, of_unlearned, threshold)
    return UnlearningDepth(
        scores=scores,
        delta_retrain=of_retrain,
        delta_unlearned=of_unlearned,
        threshold=threshold,
        ids=sample.ids,
        labels=labels,
        mean=sample.means(scores),
        layers=torch.stack([sample.means(side) for side in (of_retrain, of_unlearned)]),
        level=sample.level,
    )


def depth_score(
    delta_retrain: Float[Tensor, "item layer"], delta_unlearned: Float[Tensor, "item layer"], threshold: float
) -> Float[Tensor, " item"]:
    """Compute UDS of each item by the formula above; NaN if no layer passes the threshold."""
    counts = delta_retrain > threshold
    # Layers that do not count are divided by 1, so that a Δ1 of zero makes no NaN.
    ratio = (delta_unlearned / torch.where(counts, delta_retrain, torch.ones_like(delta_retrain))).clamp(0, 1)
    weight = torch.where(counts, delta_retrain, torch.zeros_like(delta_retrain))
    return (weight * ratio).sum(1) / weight.sum(1)


def _loss_by_layer(
    full: HookedModel, donor: HookedModel, example: Encoded, batch_tokens: int | None
) -> Float[Tensor, " layer"]:
    """Compute the loss of the original model's mean log-probability with the donor's state after each layer, nats."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(full.cfg.n_layers)]
    given = activations(donor, example, names)
    places: list[tuple[str, tuple[()]]] = [(name, ()) for name in names]  # the whole activation of each layer
    scores = replaced_one_at_a_time(full, example, given, places, batch_tokens=batch_tokens).mean(-1)  # [1 + layer]
    return scores[0] - scores[1:]
