"""`diff_many`: the same changes averaged over a data set, with intervals, beside their noise floor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.result import Attribution
from unpact_lens.comparison.diff import diff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.model_pair import floor_of
from unpact_lens.comparison.questions import Question, questions
from unpact_lens.comparison.result import ModelDiff
from unpact_lens.comparison.split_heads import split_heads
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text
from unpact_lens.results import Result
from unpact_lens.stats.bootstrap import clustered_means
from unpact_lens.stats.intervals import require_level

SCALARS = ("log_prob", "logit", "logsumexp")
KL = ("kl_prompt", "kl_answer")
"""KL(before ‖ after) of an item, nats: mean over the positions that predict the prompt, and over those that predict the
answer."""
MEASURES = ("relative", "cosine", "cka")
"""Of activations: length of Δ over that before, cosine, both means over the positions; CKA over them."""


@dataclass(frozen=True, eq=False)
class DiffSummary(Result):
    """Δ of many questions: means over them, with bootstrap intervals that draw whole subjects.

    Each item counts once: its answer tokens, or its positions, are averaged first. Every summary is
    `[mean, low, high, n]`.

    Attributes:
        scalars: for Δ log-prob (nats), Δ logit and Δ logsumexp; with activations also `kl_prompt` and `kl_answer`.
        components: `[component, 4]`, the same for Δ of each component, logits. The means sum to that of Δ logit.
        heads: `[layer, head, 4]`, the same for each head.
        items: `[item, scalar]`, the scalars of each item.
        labels: names of the components; layers and heads.
        ids: the items' ids.
        split: `[player, layer, head, 4]`, logits: why each head changed; the means sum to that of the head. None where
            not asked for.
        players: of the split: pattern, input, ov, readout; then, where asked for, the pattern's two parts.
        activations: for each of `MEASURES` `[hook, 4]`. None where not asked for.
        hooks: the hook names.
        focus: contributions before and after, and how they moved; None where not asked for.
        floor: the same of a pair of models that differ by noise only, e.g. two training seeds; or None.
        level: confidence of the intervals.
        settings: resamples and seed.
    """

    figure: ClassVar[str | None] = "summary:diff_summary"

    scalars: dict[str, Float[Tensor, " 4"]]
    components: Float[Tensor, "component 4"]
    heads: Float[Tensor, "layer head 4"]
    items: Float[Tensor, "item scalar"]
    labels: tuple[tuple[str, ...], ...]
    ids: tuple[str, ...]
    split: Float[Tensor, "player layer head 4"] | None = None
    players: tuple[str, ...] = ()
    activations: dict[str, Float[Tensor, "hook 4"]] | None = None
    hooks: tuple[str, ...] = ()
    focus: Focus | None = None
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
        names = [*(name if name in KL else f"Δ {name}" for name in self.scalars), *self.labels[0]]
        table = torch.cat([torch.stack(list(self.scalars.values())), self.components])
        return self._table({"what": names}, table, None if self.floor is None else self.floor.to_frame())

    def heads_frame(self) -> pd.DataFrame:
        """One row for each head."""
        names = [l + h for l, h in product(*self.labels[1:])]
        return self._table(
            {"head": names}, self.heads.flatten(0, 1), None if self.floor is None else self.floor.heads_frame()
        )

    def split_frame(self) -> pd.DataFrame:
        """One row for each player and head.

        Raises:
            InputError: if the heads were not split.
        """
        if self.split is None:
            raise InputError("the heads of this summary were not split; give diff_many(..., split=True)")
        rows = list(product(self.players, *self.labels[1:]))
        names = {"player": [p for p, _, _ in rows], "head": [l + h for _, l, h in rows]}
        return self._table(names, self.split.flatten(0, 2), None if self.floor is None else self.floor.split_frame())

    def activations_frame(self) -> pd.DataFrame:
        """One row for each measure and hook.

        Raises:
            InputError: if activations were not compared.
        """
        if self.activations is None:
            raise InputError("this summary has no activations; give diff_many(..., activations=True)")
        rows = list(product(self.activations, self.hooks))
        names = {"measure": [m for m, _ in rows], "hook": [h for _, h in rows]}
        table = torch.cat(list(self.activations.values()))
        return self._table(names, table, None if self.floor is None else self.floor.activations_frame())

    def _table(self, names: dict[str, Any], table: Tensor, floor: pd.DataFrame | None) -> pd.DataFrame:
        """Names, mean and interval of each row, and the floor's mean where there is one."""
        frame = pd.DataFrame({**names, **dict(zip(("mean", "low", "high"), table.T.tolist(), strict=False))})
        if floor is not None:
            frame["floor"] = floor["mean"]
        return frame


@dataclass(frozen=True)
class _Item:
    """What is kept of one diff: numbers that are averaged, and the two attributions."""

    numbers: dict[str, Tensor]
    contributions: tuple[Attribution, Attribution] | None
    labels: tuple[tuple[str, ...], ...]
    players: tuple[str, ...]
    hooks: tuple[str, ...]


def diff_many(
    before: Any,
    after: Any,
    items: Iterable[QA | tuple[Text, Text]],
    *,
    contributions: bool = False,
    split: bool = False,
    pattern_parts: bool = False,
    activations: bool = False,
    floor: Sequence[Any] | None = None,
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
        items: `QA` items, or `(prompt, answer)` pairs; any iterable, read once, one item at a time.
        contributions: also attribute each answer to its prompt under each model, and say how the focus moved.
        split: also split each head's Δ between pattern, input, OV and readout.
        pattern_parts: split the pattern's share again, into the weights of queries and keys and their input.
        activations: also compare activations at each hook, and next-token distributions.
        floor: two models that differ by noise only (two training seeds, or the model before and after fine-tuning on
            unrelated text), on which the same is measured.
        level: confidence of the intervals.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers, given to the model and not scored.

    Raises:
        InputError: if there are no items, the level is not between 0 and 1, the floor is not a pair of comparable
            models, or for any input that `diff` refuses.
    """
    require_level(level)
    pairs = [(before, after), *([] if floor is None else [floor_of(before, floor)])]
    asked: dict[str, Any] = {
        "contributions": contributions,
        "activations": activations,
        "chat": chat,
        "prefill": prefill,
    }
    found: list[list[_Item]] = [[] for _ in pairs]
    ids: list[str] = []
    subjects: list[str] = []
    for q in questions(items):
        ids.append(q.id)
        subjects.append(q.subject)
        for pair, kept in zip(pairs, found, strict=True):
            d = diff(*pair, q.prompt, q.answer, weights=False, **asked)
            kept.append(_item(d, pair, q, (split, pattern_parts), chat, prefill))
    summaries = [_summary(kept, ids, subjects, level, resamples, seed) for kept in found]
    return replace(summaries[0], floor=summaries[1] if floor is not None else None)


def _item(
    d: ModelDiff,
    pair: tuple[Any, Any],
    q: Question,
    split: tuple[bool, bool],
    chat: bool,
    prefill: Text,
) -> _Item:
    """The numbers of one diff, answer tokens and positions averaged."""
    scalars = [getattr(d, f"delta_{name}").mean() for name in SCALARS]
    numbers = {"components": d.delta_components.mean(-1), "heads": d.delta_heads.mean(-1)}
    players: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    if d.activations is not None:
        changes = d.activations
        first = len(changes.tokens) - len(d.answer_tokens)
        # The position before the first answer token predicts it; a prompt of one token has none that predict a prompt.
        scalars += [changes.kl[:first].mean(), changes.kl[first:].mean()]
        numbers["activations"] = torch.stack(
            [changes.relative.nanmean(1), changes.cosine.nanmean(1), changes.cka.to(changes.cosine)]
        )
        hooks = changes.hooks
    if any(split):
        why = split_heads(*pair, q.prompt, q.answer, pattern_parts=split[1], chat=chat, prefill=prefill)
        shares = why.values if why.pattern_parts is None else torch.cat([why.values, why.pattern_parts])
        numbers["split"] = shares.mean(-1)
        players = (*why.players, *(() if why.pattern_parts is None else ("qk_weights", "qk_input")))
    numbers["scalars"] = torch.stack(scalars)
    both = None
    if d.contributions_before is not None and d.contributions_after is not None:
        sides = (d.contributions_before, d.contributions_after)
        both = (replace(sides[0], id=q.id, subject=q.about), replace(sides[1], id=q.id, subject=q.about))
    return _Item(numbers, both, (d.components_before.labels[0], *d.heads_before.labels[:2]), players, hooks)


def _summary(
    found: Sequence[_Item], ids: Sequence[str], subjects: Sequence[str], level: float, resamples: int, seed: int
) -> DiffSummary:
    """Means over the items of one pair of models, with their intervals."""
    numbers = {name: torch.stack([item.numbers[name] for item in found]) for name in found[0].numbers}
    means = {
        name: clustered_means(values.double().flatten(1), subjects, level, resamples, seed).reshape(
            *values.shape[1:], 4
        )
        for name, values in numbers.items()
    }
    both = [item.contributions for item in found if item.contributions is not None]
    moved = None
    if both:
        sides = ([b for b, _ in both], [a for _, a in both])
        moved = focus(*sides, level=level, resamples=resamples, seed=seed)
    names = (*SCALARS, *(KL if "activations" in means else ()))
    return DiffSummary(
        scalars=dict(zip(names, means["scalars"], strict=True)),
        components=means["components"],
        heads=means["heads"],
        items=numbers["scalars"],
        labels=found[0].labels,
        ids=tuple(ids),
        split=means.get("split"),
        players=found[0].players,
        activations=dict(zip(MEASURES, means["activations"], strict=True)) if "activations" in means else None,
        hooks=found[0].hooks,
        focus=moved,
        level=level,
        settings={"resamples": resamples, "seed": seed},
    )
