"""Compare contributions of the prompt's units before and after unlearning: did the model's focus move?"""

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
from unpact_lens.display import estimate, joined
from unpact_lens.errors import InputError
from unpact_lens.results import Result
from unpact_lens.stats.bootstrap import clustered_mean
from unpact_lens.stats.intervals import require_level
from unpact_lens.words import WORD

if TYPE_CHECKING:
    import pandas as pd

MEASURES: dict[str, str] = {
    "spearman": "Spearman correlation of the contributions before and after, over the prompt's units",
    "overlap": "Jaccard overlap of the KeyTokens before and after",
    "mass_before": "share of the positive contributions on the KeyTokens, original model",
    "mass_after": "share of the positive contributions on the original model's KeyTokens, unlearned model",
    "mass_shift": "mass_after - mass_before",
    "entropy_before": "entropy of |C| over the units, nats, original model; low means a narrow focus",
    "entropy_after": "entropy of |C| over the units, nats, unlearned model",
    "entropy_shift": "entropy_after - entropy_before",
    "subject_rank_before": "best rank of the subject's units by contribution, original model; 1 is the largest",
    "subject_rank_after": "best rank of the subject's units by contribution, unlearned model",
    "subject_rank_shift": "after - before; positive means less focus on the subject",
    "subject_score_before": "summed contribution of the subject's units, in the target's unit, original model",
    "subject_score_after": "summed contribution of the subject's units, in the target's unit, unlearned model",
    "subject_score_shift": "after - before",
}
"""Measures of `Focus`, one line each."""


@dataclass(frozen=True, eq=False)
class Focus(Result):
    """Hold how contributions moved between two models, over the same prompts and answers.

    Attributes:
        before: Attributions under the original model, one per item; kept for heat maps.
        after: Attributions under the unlearned model.
        measures: `[item]` for each name in `MEASURES`; NaN if undefined (constant contributions, no positive mass, or
            the prompt does not name the subject).
        means: `[mean, low, high, n]` for each name: the mean over the items where it is defined, the ends of its
            bootstrap interval over subjects, and the number of these items.
        rule: Rule of the KeyTokens.
        level: Confidence level of the intervals.
        seed: Random seed of the bootstrap.
        floor: The same for the noise baseline, or None.
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

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.before)} items",
                f"overlap {estimate(self.means['overlap'])}",
                f"Spearman {estimate(self.means['spearman'])}",
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per measure: mean, interval, number of items, noise baseline, description."""
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
        """Make a table with one row per item: its id, subject, prompt, and every measure."""
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
    """Compare the contributions under two models.

    Args:
        before: Attributions under the original model, one per prompt.
        after: Attributions of the same prompts and answers under the unlearned model, in the same order.
        rule: Rule that picks the KeyTokens; `TopK(3)` if None.
        floor: Noise baseline: attributions of the same prompts under two models that differ by noise only (two
            training seeds, or before and after fine-tuning on unrelated text), on which the same is measured.
        level: Confidence level of the bootstrap intervals.
        resamples: Number of bootstrap resamples. They draw whole subjects, because facts about one subject are not
            independent.
        seed: Random seed of the bootstrap.

    Returns:
        The measures of `MEASURES`, for each item and on average.

    Raises:
        InputError: If there are no attributions, or the two sides are not attributions of the same prompts, answers
            and units.

    Source: arXiv 2509.24675, first finding; the measures are described in `MEASURES`.
    """
    rule = TopK(3) if rule is None else rule
    _check(before, after)
    require_level(level)
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
    """Compute every measure of `MEASURES` for one prompt; NaN if undefined."""
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
    """Find the rows whose characters belong to the subject, wherever the prompt names it; empty if it does not.

    The whole subject is searched for first; a prompt that names only a part of it is matched by its words.
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
    """Refuse sides that are not attributions of the same prompts, answers and units."""
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
