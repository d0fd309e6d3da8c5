"""Keep the former calls over a data set for one release: write `average(diff(before, after, qa) for qa in items)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import Unpack

from unpact_lens.attribution import KeyRule
from unpact_lens.comparison.average import average
from unpact_lens.comparison.diff import DiffParts, diff_of_pair
from unpact_lens.comparison.diff_summary import DiffSummary
from unpact_lens.comparison.graft import check_graft, grafted_scores
from unpact_lens.comparison.key_path import Restoring, key_path_of_pair
from unpact_lens.comparison.key_path_summary import KeyPathSummary
from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.comparison.patch import Patching, patch_of_pair, require_places_in_all_prompts
from unpact_lens.comparison.patching_summary import PatchingSummary, summary_of_patches
from unpact_lens.comparison.question import Items, questions
from unpact_lens.comparison.sample import Row, Sample
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.stats.intervals import require_level


def diff_many(
    before: HookedModel,
    after: HookedModel,
    items: Items,
    *,
    contributions: bool = False,
    split: bool = False,
    pattern_parts: bool = False,
    activations: bool = False,
    floor: Sequence[HookedModel] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    **asking: Unpack[AskingOptions],
) -> DiffSummary:
    """Average `diff` over a data set; see `diff` and `average` for the arguments and errors."""
    parts = DiffParts(contributions, split=split, pattern_parts=pattern_parts, activations=activations)
    asked = Asking(**asking)
    require_level(level)
    pair = ModelPair.of(before, after, floor=floor)
    found = (diff_of_pair(pair, q, parts, asked) for q in questions(items))
    return average(found, level=level, resamples=resamples, seed=seed)


def patch_many(
    before: HookedModel,
    after: HookedModel,
    items: Items,
    *,
    what: str = "head",
    direction: str = "before_into_after",
    method: str = "exact",
    floor: Sequence[HookedModel] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    **asking: Unpack[AskingOptions],
) -> PatchingSummary:
    """Average `patch` over a data set; see `patch` and `average` for the arguments and errors."""
    require_places_in_all_prompts(what)
    patching, asked = Patching(what, direction, method), Asking(**asking)
    require_level(level)
    pair = ModelPair.of(before, after, floor=floor)
    found = (patch_of_pair(pair, q, patching, asked) for q in questions(items))
    return average(found, level=level, resamples=resamples, seed=seed)


def graft_many(
    before: HookedModel,
    after: HookedModel,
    items: Items,
    *,
    unit: str = "matrix",
    direction: str = "before_into_after",
    floor: Sequence[HookedModel] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    **asking: Unpack[AskingOptions],
) -> PatchingSummary:
    """Average `graft_map` over a data set; see `graft_map` and `average` for the arguments and errors.

    This batched form makes every graft once and scores all questions with it, which is faster than one `graft_map` per
    question. The token ids of all questions are kept in memory.
    """
    check_graft(unit, direction)
    asked = Asking(**asking)
    require_level(level)
    pair = ModelPair.of(before, after, floor=floor)
    asked_for = list(questions(items))
    sample = Sample.of(((q.id, q.subject) for q in asked_for), level, resamples, seed)
    encoded = [asked.encode(before, q.prompt, q.answer) for q in asked_for]

    def summary(models: ModelPair) -> PatchingSummary:
        found = grafted_scores(models, encoded, unit, direction, asked.batch_tokens)
        about = {"labels": found.labels, "what": f"weights by {unit}", "direction": direction, "method": "exact"}
        grafted, recipient, donor = (scores.double() for scores in (found.grafted, found.recipient, found.donor))
        changes, gaps = grafted - recipient[:, None, None], donor - recipient  # [item, row, column], [item]
        rows = [Row({"change": change, "gap": gap}, about) for change, gap in zip(changes, gaps, strict=True)]
        return summary_of_patches(rows, sample)

    found = summary(pair)
    return found if pair.noise is None else replace(found, floor=summary(pair.noise))


def key_path_many(
    before: HookedModel,
    after: HookedModel,
    items: Items,
    *,
    keys: KeyRule | Sequence[int] | None = None,
    restore: str = "moved",
    draws: int = 8,
    floor: Sequence[HookedModel] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    **asking: Unpack[AskingOptions],
) -> KeyPathSummary:
    """Average `key_path` over a data set; see `key_path` and `average` for the arguments and errors.

    `seed` is the random seed of the draws and of the bootstrap.
    """
    restoring, asked = Restoring(keys, restore, draws, seed), Asking(**asking)
    require_level(level)
    pair = ModelPair.of(before, after, floor=floor)
    found = (key_path_of_pair(pair, q, restoring, asked) for q in questions(items))
    return average(found, level=level, resamples=resamples, seed=seed)
