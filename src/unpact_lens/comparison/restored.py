"""What interventions bring back over a data set: patching and grafting maps and key paths averaged, with intervals.

Each question counts once. Changes are in nats; a share is the sum of what comes back over the sum of what was lost, so
a question that lost almost nothing does not count as much as one that lost all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, ClassVar, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution import KeyRule
from unpact_lens.comparison.graft import check_graft, grafted_scores
from unpact_lens.comparison.key_path import RESTORE, KeyPath, key_path
from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.patch import PLACES, patch
from unpact_lens.comparison.questions import Question, questions
from unpact_lens.comparison.result import PatchingMap
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Text, encode
from unpact_lens.results import Result
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS
from unpact_lens.stats.bootstrap import clustered_means, clustered_ratios
from unpact_lens.stats.intervals import require_level

M = TypeVar("M")

WAYS = ("key tokens", "other tokens", "all tokens")
"""Through which positions the answer may come back, as in `KeyPath.to_frame`."""


@dataclass(frozen=True, eq=False)
class PatchingSummary(Result):
    """Patching maps averaged over a data set; every entry is `[value, low, high, n]`.

    Attributes:
        change: `[row, column, 4]`, mean change of the answer's mean log-probability by each patch, nats.
        share: `[row, column, 4]`, Σ change over Σ gap: the share of what separates the models that each patch closes.
        gap: `[4]`, mean of the donor's mean log-probability minus the recipient's, nats.
        labels: layers; heads, or the one column of a map by layer; weights, of a graft.
        what: what is patched, at every position, or which weights are grafted.
        direction: which model's activations, or weights, go into which.
        method: `"exact"` or `"gradient"`.
        ids: the items' ids.
        level: confidence of the intervals.
        settings: resamples and seed of the bootstrap over subjects.
        floor: the same between two models that differ by noise only; or None.
    """

    change: Float[Tensor, "row column 4"]
    share: Float[Tensor, "row column 4"]
    gap: Float[Tensor, " 4"]
    labels: tuple[tuple[str, ...], ...]
    what: str
    direction: str
    method: str
    ids: tuple[str, ...]
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict)
    floor: PatchingSummary | None = None

    figure: ClassVar[str | None] = "restored:patching_summary"

    def to_frame(self) -> pd.DataFrame:
        """One row for each patch: mean change (nats) and share of the gap with their intervals; the floor's change."""
        rows = list(product(*self.labels))
        frame = pd.DataFrame({"layer": [r for r, _ in rows], "place": [c for _, c in rows]})
        return _with_intervals(frame, self.change, self.share, None if self.floor is None else self.floor.change)


@dataclass(frozen=True, eq=False)
class KeyPathSummary(Result):
    """Key paths averaged over a data set; every entry is `[value, low, high, n]`.

    Attributes:
        change: `[way, 4]`, nats: what comes back when all heads read the KeyTokens as before, as many other prompt
            tokens, or all positions; ways as `WAYS`.
        share: `[way, 4]`, Σ change over Σ loss.
        by_head: `[layer, head, 4]`, nats: what one head alone brings back from the KeyTokens.
        loss: `[4]`, mean loss of the answer's mean log-probability, nats.
        labels: layers and heads.
        restore: `"moved"` or `"pattern"`.
        ids: the items' ids.
        level: confidence of the intervals.
        settings: draws, and resamples and seed of the bootstrap over subjects.
        floor: the same between two models that differ by noise only, for the same KeyTokens; or None.
    """

    change: Float[Tensor, "way 4"]
    share: Float[Tensor, "way 4"]
    by_head: Float[Tensor, "layer head 4"]
    loss: Float[Tensor, " 4"]
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    restore: str
    ids: tuple[str, ...]
    level: float = 0.95
    settings: dict[str, Any] = field(default_factory=dict)
    floor: KeyPathSummary | None = None

    figure: ClassVar[str | None] = "restored:key_path_summary"

    def to_frame(self) -> pd.DataFrame:
        """One row a way: mean change (nats) and share of the loss with their intervals; the floor's change."""
        noise = None if self.floor is None else self.floor.change
        return _with_intervals(pd.DataFrame({"path": WAYS}), self.change, self.share, noise)

    def heads_frame(self) -> pd.DataFrame:
        """One row a head: what it alone brings back from the KeyTokens, nats; the floor's where there is one."""
        frame = pd.DataFrame({"head": [l + h for l, h in product(*self.labels)]})
        for end, column in zip(("", "_low", "_high"), self.by_head.flatten(0, 1).T, strict=False):
            frame[f"change{end}"] = column.tolist()
        if self.floor is not None:
            frame["change_floor"] = self.floor.by_head[..., 0].flatten().tolist()
        return frame


def _with_intervals(frame: pd.DataFrame, change: Tensor, share: Tensor, floor: Tensor | None) -> pd.DataFrame:
    for name, values in (("change", change), ("share", share)):
        for end, column in zip(("", "_low", "_high"), values.reshape(-1, 4).T, strict=False):
            frame[name + end] = column.tolist()
        if name == "change" and floor is not None:
            frame["change_floor"] = floor[..., 0].flatten().tolist()
    return frame


def patch_many(
    before: Any,
    after: Any,
    items: Iterable[QA | tuple[Text, Text]],
    *,
    what: str = "head",
    direction: str = "before_into_after",
    method: str = "exact",
    floor: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> PatchingSummary:
    """`patch` over a data set, one question at a time: only numbers of each are kept.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        items: `QA` items, or `(prompt, answer)` pairs; any iterable, read once.
        what: `"head"`, `"attn"`, `"mlp"` or `"layer"`, at every position: places that all prompts have.
        direction: which model's activations go into which.
        method: `"exact"` or `"gradient"`.
        floor: two models that differ by noise only, between which the same is measured.
        level: confidence of the intervals.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if there are no items, `what` goes by position, or for any input that `patch` refuses.
    """
    if what in PLACES and PLACES[what].columns == "position":
        everywhere = ", ".join(repr(name) for name, place in PLACES.items() if place.columns != "position")
        raise InputError(
            f"what={what!r} goes by position, and prompts differ in length; over a data set: {everywhere}. "
            "For one question: patch()"
        )
    _check(before, after, floor, level)
    asked: dict[str, Any] = {"chat": chat, "prefill": prefill, "batch_tokens": batch_tokens, "floor": floor}

    def measure(q: Question) -> PatchingMap:
        return patch(before, after, q.prompt, q.answer, what=what, direction=direction, method=method, **asked)

    maps, ids, subjects = _each(items, measure)

    def summary(maps: Sequence[PatchingMap]) -> PatchingSummary:
        changes = torch.stack([found.values.double() for found in maps])
        gaps = torch.tensor([found.donor - found.baseline for found in maps], dtype=torch.float64)
        about = {"labels": maps[0].labels, "what": what, "direction": direction, "method": method, "ids": ids}
        return _averaged(changes, gaps, (subjects, level, resamples, seed), about)

    noise = [found.floor for found in maps if found.floor is not None]
    return replace(summary(maps), floor=summary(noise) if noise else None)


def graft_many(
    before: Any,
    after: Any,
    items: Iterable[QA | tuple[Text, Text]],
    *,
    unit: str = "matrix",
    direction: str = "before_into_after",
    floor: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> PatchingSummary:
    """`graft_map` over a data set: each matrix, or layer, is put in once and all questions are scored with it.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        items: `QA` items, or `(prompt, answer)` pairs; any iterable, read once, its token ids kept.
        unit: `"matrix"` or `"layer"`, as in `graft_map`.
        direction: which model's weights go into which.
        floor: two models that differ by noise only, between which the same is measured.
        level: confidence of the intervals.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Returns:
        Mean changes (nats) and shares of the gap with their intervals; rows and columns as in `graft_map`.

    Raises:
        InputError: if there are no items, or for any input that `graft_map` refuses.
    """
    check_graft(unit, direction)
    _check(before, after, floor, level)
    rows, ids, subjects = _each(items, lambda q: encode(before, q.prompt, q.answer, chat=chat, prefill=prefill))

    def summary(one: Any, two: Any) -> PatchingSummary:
        found, labels = grafted_scores(one, two, rows, unit, direction, batch_tokens)
        changes = found.grafted.double() - found.recipient.double()[:, None, None]
        about = {"labels": labels, "what": f"weights by {unit}", "direction": direction, "method": "exact", "ids": ids}
        return _averaged(
            changes, found.donor.double() - found.recipient.double(), (subjects, level, resamples, seed), about
        )

    noise = None if floor is None else summary(*floor)
    return replace(summary(before, after), floor=noise)


def _averaged(
    changes: Float[Tensor, "item row column"],
    gaps: Float[Tensor, " item"],
    draw: tuple[list[str], float, int, int],
    about: dict[str, Any],
) -> PatchingSummary:
    """The summary of changes and gaps of each question; `draw` is its subjects, level, resamples and seed."""
    _, level, resamples, seed = draw
    shape = (*changes.shape[1:], 4)
    return PatchingSummary(
        change=clustered_means(changes.flatten(1), *draw).reshape(shape),
        share=clustered_ratios(changes.flatten(1), gaps, *draw).reshape(shape),
        gap=clustered_means(gaps[:, None], *draw)[0],
        level=level,
        settings={"resamples": resamples, "seed": seed},
        **about,
    )


def key_path_many(
    before: Any,
    after: Any,
    items: Iterable[QA | tuple[Text, Text]],
    *,
    keys: KeyRule | Sequence[int] | None = None,
    restore: str = "moved",
    draws: int = 8,
    floor: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> KeyPathSummary:
    """`key_path` over a data set, one question at a time: only numbers of each are kept.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        items: `QA` items, or `(prompt, answer)` pairs; any iterable, read once.
        keys: a rule applied to each prompt's leave-one-out contributions under the model before, or indices of tokens
            that stand at the same place in all prompts; `TopK(3)` by default.
        restore: `"moved"` or `"pattern"`.
        draws: how many sets of other tokens a prompt.
        floor: two models that differ by noise only, between which the same is measured.
        level: confidence of the intervals.
        resamples: of the bootstrap over subjects.
        seed: of the draws and of the bootstrap.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if there are no items, or for any input that `key_path` refuses.
    """
    if restore not in RESTORE:
        raise InputError(f"restore={restore!r}; {nearest(str(restore), RESTORE)}")
    _check(before, after, floor, level)
    asked: dict[str, Any] = {"chat": chat, "prefill": prefill, "batch_tokens": batch_tokens, "floor": floor}

    def measure(q: Question) -> KeyPath:
        return key_path(before, after, q.prompt, q.answer, keys=keys, restore=restore, draws=draws, seed=seed, **asked)

    paths, ids, subjects = _each(items, measure)
    draw = (subjects, level, resamples, seed)

    def summary(paths: Sequence[KeyPath]) -> KeyPathSummary:
        ways = [[p.log_prob_key, float(p.log_prob_rest.mean()), p.log_prob_all] for p in paths]
        ends = torch.tensor([[p.log_prob_before, p.log_prob_after] for p in paths], dtype=torch.float64)
        changes, losses = torch.tensor(ways, dtype=torch.float64) - ends[:, 1:], ends[:, 0] - ends[:, 1]
        heads = torch.stack([p.values.double() for p in paths])
        return KeyPathSummary(
            change=clustered_means(changes, *draw),
            share=clustered_ratios(changes, losses, *draw),
            by_head=clustered_means(heads.flatten(1), *draw).reshape(*heads.shape[1:], 4),
            loss=clustered_means(losses[:, None], *draw)[0],
            labels=paths[0].labels,
            restore=restore,
            ids=ids,
            level=level,
            settings={"draws": draws, "resamples": resamples, "seed": seed},
        )

    noise = [found.floor for found in paths if found.floor is not None]
    return replace(summary(paths), floor=summary(noise) if noise else None)


def _each(
    items: Iterable[QA | tuple[Text, Text]], measure: Callable[[Question], M]
) -> tuple[list[M], tuple[str, ...], list[str]]:
    """What is measured of each question, its id, and the subject that it is drawn with."""
    found: list[M] = []
    asked: list[tuple[str, str]] = []
    for q in questions(items):
        found.append(measure(q))
        asked.append((q.id, q.subject))
    return found, tuple(i for i, _ in asked), [s for _, s in asked]


def _check(before: Any, after: Any, floor: Sequence[Any] | None, level: float) -> None:
    require_level(level)
    require_comparable(before, after)
    if floor is not None:
        floor_of(before, floor)
