"""Finding 1: does unlearning move the model's focus? Contributions before against contributions after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.key_tokens import KeyRule, TopK
from unpact_lens.attribution.result import Attribution, positive_mass
from unpact_lens.attribution.similarity import entropy, jaccard, rank, spearman
from unpact_lens.errors import InputError
from unpact_lens.results import Result
from unpact_lens.stats.bootstrap import clustered_mean
from unpact_lens.words import WORD

if TYPE_CHECKING:
    import pandas as pd

MEASURES: dict[str, str] = {
    "spearman": "Spearman correlation of the contributions before and after, over the prompt's units",
    "overlap": "Jaccard overlap of the KeyTokens before and after",
    "mass_before": "share of the positive contributions on the KeyTokens before",
    "mass_after": "the same after, on the KeyTokens of before",
    "mass_shift": "mass_after - mass_before",
    "entropy_before": "entropy of |C| over the units, nats: low is a narrow focus",
    "entropy_after": "the same after",
    "entropy_shift": "entropy_after - entropy_before",
    "subject_rank_before": "best rank of the subject's units by contribution, 1 is the largest",
    "subject_rank_after": "the same after",
    "subject_rank_shift": "after - before: positive is less focus on the subject",
    "subject_score_before": "summed contribution of the subject's units, in the target's unit",
    "subject_score_after": "the same after",
    "subject_score_shift": "after - before",
}
"""Every measure of `Focus`, one line each."""


@dataclass(frozen=True, eq=False)
class Focus(Result):
    """How contributions moved between two models, over the same prompts and answers.

    Attributes:
        before: attributions under the model before, one an item; kept for heat maps.
        after: the same under the model after.
        measures: for each name in `MEASURES`, its value for each item; NaN where it is undefined (constant
            contributions, no positive mass, the subject not named in the prompt).
        means: for each name, `[mean, low, high, n]`: the mean over the items where it is defined, the ends of its
            bootstrap interval over subjects, and how many items those are.
        rule: the rule of the KeyTokens.
        level: confidence of the intervals.
        seed: of the bootstrap.
        floor: the same between two models that differ by noise only; or None.
    """

    figure: ClassVar[str | None] = "focus:focus_shift"

    before: tuple[Attribution, ...]
    after: tuple[Attribution, ...]
    measures: dict[str, Float[Tensor, " item"]]
    means: dict[str, Float[Tensor, " 4"]]
    rule: KeyRule
    level: float = 0.95
    seed: int = 0
    floor: Focus | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a measure: mean, interval, number of items, the floor's mean where there is one, what it says."""
        import pandas as pd

        rows = [
            {"measure": k, "mean": m[0], "low": m[1], "high": m[2], "n": int(m[3]), "about": MEASURES[k]}
            for k, m in ((k, v.tolist()) for k, v in self.means.items())
        ]
        frame = pd.DataFrame(rows)
        if self.floor is not None:
            frame.insert(4, "floor", self.floor.to_frame()["mean"])
        return frame

    def items(self) -> pd.DataFrame:
        """One row an item: its id, subject, prompt, and every measure."""
        import pandas as pd

        about = {k: [getattr(a, k) for a in self.before] for k in ("id", "subject", "prompt", "answer")}
        return pd.DataFrame({**about, **{k: v.tolist() for k, v in self.measures.items()}})


def focus(
    before: Sequence[Attribution],
    after: Sequence[Attribution],
    rule: KeyRule | None = None,
    *,
    floor: tuple[Sequence[Attribution], Sequence[Attribution]] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Focus:
    """How contributions moved from one model to another.

    Args:
        before: attributions under the model before, one for each prompt.
        after: attributions of the same prompts and answers under the model after, in the same order.
        rule: which units are KeyTokens; `TopK(3)` by default.
        floor: attributions of the same prompts under two models that differ by noise only (two training seeds, or
            before and after fine-tuning on unrelated text), on which the same is measured.
        level: confidence of the bootstrap intervals.
        resamples: of the bootstrap. Whole subjects are drawn, since the facts about one subject are not independent.
        seed: of the bootstrap.

    Returns:
        The measures of `MEASURES`, for each item and on average.

    Raises:
        InputError: if there are none, or the two sides are not attributions of the same prompts, answers and units.

    Source: the paper's first finding, arXiv 2509.24675; its measures as `MEASURES` says.
    """
    rule = TopK(3) if rule is None else rule
    _check(before, after)
    if not 0 < level < 1:
        raise InputError(f"level={level}; a confidence level lies between 0 and 1, e.g. 0.95")
    rows = [item_measures(b, a, rule) for b, a in zip(before, after, strict=True)]
    measures = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in MEASURES}
    clusters = [a.subject or f"item {i}" for i, a in enumerate(before)]
    means = {name: clustered_mean(values, clusters, level, resamples, seed) for name, values in measures.items()}
    beside = None
    if floor is not None:
        _check(before, floor[0])
        beside = focus(*floor, rule, level=level, resamples=resamples, seed=seed)
    return Focus(tuple(before), tuple(after), measures, means, rule, level, seed, beside)


def item_measures(before: Attribution, after: Attribution, rule: KeyRule) -> dict[str, float]:
    """Every measure of `MEASURES` for one prompt; NaN where it is undefined."""
    key = before.key_tokens(rule).indices
    found = {
        "spearman": spearman(before.scores, after.scores),
        "overlap": jaccard(key, after.key_tokens(rule).indices),
        "mass_before": positive_mass(before.scores, key),
        "mass_after": positive_mass(after.scores, key),
        "entropy_before": entropy(before.scores),
        "entropy_after": entropy(after.scores),
    }
    subject = subject_rows(before)
    for side, scores in (("before", before.scores), ("after", after.scores)):
        found[f"subject_rank_{side}"] = min((rank(scores, i) for i in subject), default=float("nan"))
        found[f"subject_score_{side}"] = float(scores[list(subject)].sum()) if subject else float("nan")
    for name in ("mass", "entropy", "subject_rank", "subject_score"):
        found[f"{name}_shift"] = found[f"{name}_after"] - found[f"{name}_before"]
    return found


def subject_rows(attribution: Attribution) -> tuple[int, ...]:
    """Rows whose characters belong to a word of the subject, wherever the prompt names it; empty where it does not.

    The whole subject is looked for first; a prompt that names it only in part is matched by its words.
    """
    prompt, subject = attribution.prompt.lower(), attribution.subject.strip().lower()
    if not subject:
        return ()
    places = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)]
    if not places:
        words = {m.group() for m in WORD.finditer(subject)}
        places = [m.span() for m in WORD.finditer(prompt) if m.group() in words]
    return tuple(
        i for i, (start, end) in enumerate(attribution.spans) if any(max(a, start) < min(b, end) for a, b in places)
    )


def _check(before: Sequence[Attribution], after: Sequence[Attribution]) -> None:
    if not before:
        raise InputError("no attributions to compare; give at least one before and one after")
    if len(before) != len(after):
        raise InputError(f"{len(before)} attributions before and {len(after)} after; give the same prompts to both")
    for i, (b, a) in enumerate(zip(before, after, strict=True)):
        for name in ("token_ids", "answer_ids", "members", "method", "target"):
            if getattr(b, name) != getattr(a, name):
                raise InputError(
                    f"item {i} ({b.prompt!r}): {name} differs before and after "
                    f"({_short(getattr(b, name))} and {_short(getattr(a, name))}); compare like with like"
                )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
