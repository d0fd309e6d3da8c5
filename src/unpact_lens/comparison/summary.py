"""`diff_many`: the same changes averaged over a data set, with intervals, beside their noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.difference import diff
from unpact_lens.comparison.focus import clustered_mean
from unpact_lens.comparison.result import ModelDiff
from unpact_lens.data.qa import QA
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text
from unpact_lens.results import Result

SCALARS = ("log_prob", "logit", "logsumexp")


@dataclass(frozen=True, eq=False)
class DiffSummary(Result):
    """Δ of many questions: means over them, with bootstrap intervals that draw whole subjects.

    Each item counts once: its answer tokens are averaged first.

    Attributes:
        scalars: for Δ log-prob (nats), Δ logit and Δ logsumexp: `[mean, low, high, n]`.
        components: `[component, 4]`, the same for Δ of each component, logits. The means sum to that of Δ logit.
        heads: `[layer, head, 4]`, the same for each head.
        items: `[item, 3]`, Δ log-prob, Δ logit, Δ logsumexp of each.
        labels: names of the components; layers and heads.
        ids: the items' ids.
        floor: the same of a pair of models that differ by noise only, e.g. two training seeds; or None.
        level: confidence of the intervals.
        settings: resamples and seed.
    """

    figure: ClassVar[str | None] = "interventions:diff_summary"

    scalars: dict[str, Float[Tensor, " 4"]]
    components: Float[Tensor, "component 4"]
    heads: Float[Tensor, "layer head 4"]
    items: Float[Tensor, "item 3"]
    labels: tuple[tuple[str, ...], ...]
    ids: tuple[str, ...]
    floor: DiffSummary | None = None
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict)

    def above_floor(self) -> Float[Tensor, "layer head"]:
        """|mean Δ| of each head over that of its noise floor; infinite where the floor is 0, NaN where both are.

        Raises:
            InputError: if there is no noise floor.
        """
        if self.floor is None:
            raise InputError("this summary has no noise floor; give diff_many(..., floor=(one seed, another seed))")
        return self.heads[..., 0].abs() / self.floor.heads[..., 0].abs()

    def to_frame(self) -> pd.DataFrame:
        """One row for each scalar and component: mean, interval, and the floor's mean where there is one."""
        names = [*(f"Δ {name}" for name in self.scalars), *self.labels[0]]
        table = torch.cat([torch.stack(list(self.scalars.values())), self.components])
        frame = pd.DataFrame(table[:, :3].tolist(), columns=["mean", "low", "high"])
        frame.insert(0, "what", names)
        if self.floor is not None:
            frame["floor"] = self.floor.to_frame()["mean"]
        return frame

    def heads_frame(self) -> pd.DataFrame:
        """One row for each head."""
        rows = list(product(*self.labels[1:]))
        frame = pd.DataFrame(self.heads.flatten(0, 1)[:, :3].tolist(), columns=["mean", "low", "high"])
        frame.insert(0, "head", [l + h for l, h in rows])
        return frame


def diff_many(
    before: Any,
    after: Any,
    items: Sequence[QA | tuple[Text, Text]],
    *,
    floor: tuple[Any, Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    chat: bool = False,
    prefill: Text = "",
) -> DiffSummary:
    """`diff` over a data set, one question at a time: only numbers of each are kept, so any size fits in memory.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        items: `QA` items, or `(prompt, answer)` pairs.
        floor: two models that differ by noise only (two training seeds, or the model before and after fine-tuning on
            unrelated text), on which the same is measured.
        level: confidence of the intervals.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers, given to the model and not scored.

    Raises:
        InputError: if there are no items, the level is not between 0 and 1, or for any input that `diff` refuses.
    """
    if not items:
        raise InputError("no items; give questions to average over, e.g. bench.forget")
    if not 0 < level < 1:
        raise InputError(f"level={level}; a confidence level lies between 0 and 1, e.g. 0.95")
    scalars, components, heads = [], [], []
    labels: tuple[tuple[str, ...], ...] = ()
    for item in items:
        prompt, answer = (item.prompt, item.answer) if isinstance(item, QA) else item
        d = diff(before, after, prompt, answer, contributions=False, weights=False, chat=chat, prefill=prefill)
        scalars.append(_scalars(d))
        components.append(d.delta_components.mean(-1))
        heads.append(d.delta_heads.mean(-1))
        labels = (d.components_before.labels[0], *d.heads_before.labels[:2])
    clusters = [(q.subject or q.id) if isinstance(q, QA) else "" for q in items]
    clusters = [c or f"item {i}" for i, c in enumerate(clusters)]

    def mean(values: Float[Tensor, "*item_first"]) -> Float[Tensor, "*summary_last"]:
        flat = values.double().flatten(1).T
        rows = [clustered_mean(row, clusters, level, resamples, seed) for row in flat]
        return torch.stack(rows).reshape(*values.shape[1:], 4)

    per_item = torch.stack(scalars)
    return DiffSummary(
        scalars={name: mean(per_item[:, k : k + 1])[0] for k, name in enumerate(SCALARS)},
        components=mean(torch.stack(components)),
        heads=mean(torch.stack(heads)),
        items=per_item,
        labels=labels,
        ids=tuple(q.id if isinstance(q, QA) else str(i) for i, q in enumerate(items)),
        floor=None
        if floor is None
        else diff_many(*floor, items, level=level, resamples=resamples, seed=seed, chat=chat, prefill=prefill),
        level=level,
        settings={"resamples": resamples, "seed": seed},
    )


def _scalars(d: ModelDiff) -> Float[Tensor, " 3"]:
    return torch.stack([getattr(d, f"delta_{name}").mean() for name in SCALARS])
