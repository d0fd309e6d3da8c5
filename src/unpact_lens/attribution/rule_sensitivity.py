"""How conclusions about KeyTokens move with the rule that picks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from unpact_lens.attribution.key_tokens import KeyRule, Share, Threshold, TopK
from unpact_lens.attribution.result import Attribution, Sensitivity, positive_mass
from unpact_lens.attribution.similarity import jaccard
from unpact_lens.errors import InputError

RULES: tuple[KeyRule, ...] = (
    *(TopK(k) for k in (1, 2, 3, 5, 8)),
    *(Share(s) for s in (0.5, 0.7, 0.8, 0.9)),
    *(Threshold(t) for t in (0.05, 0.1, 0.2, 0.5)),
)
"""The rules of a sweep where none are given."""

SENSITIVITY: dict[str, str] = {
    "count": "number of KeyTokens",
    "mass": "their share of the positive contributions",
    "reference": "Jaccard overlap with the KeyTokens of the first rule",
    "overlap": "Jaccard overlap of the KeyTokens before and after (needs `after`)",
    "mass_after": "share of the positive contributions after, on the KeyTokens of before (needs `after`)",
}
"""What `sensitivity` measures for each rule and item."""


def sensitivity(
    attributions: Sequence[Attribution],
    rules: Sequence[KeyRule] = RULES,
    after: Sequence[Attribution] | None = None,
) -> Sensitivity:
    """KeyTokens under many rules: how many, how much of the mass, how alike; and what a comparison concludes.

    Args:
        attributions: of some prompts.
        rules: the rules to compare; the first is the reference.
        after: attributions of the same prompts under another model, to see how overlap and mass shift move with the
            rule.

    Returns:
        The measures of `SENSITIVITY`, and how alike the rules are.

    Raises:
        InputError: if there are no attributions or rules, or `after` is not of the same prompts.

    Source: asked by reviewers of arXiv 2509.24675, whose rule (Eq. 3 and 4) has unpublished thresholds.
    """
    if not attributions or not rules:
        raise InputError(f"{len(attributions)} attributions and {len(rules)} rules; give at least one of each")
    if after is not None and [a.token_ids for a in after] != [a.token_ids for a in attributions]:
        raise InputError("the attributions after are not of the same prompts as those before")
    keys = [[a.key_tokens(rule).indices for a in attributions] for rule in rules]
    found: dict[str, list[list[float]]] = {
        "count": [[float(len(k)) for k in row] for row in keys],
        "mass": [[positive_mass(a.scores, k) for a, k in zip(attributions, row, strict=True)] for row in keys],
        "reference": [[jaccard(k, first) for k, first in zip(row, keys[0], strict=True)] for row in keys],
    }
    if after is not None:
        later = [[a.key_tokens(rule).indices for a in after] for rule in rules]
        found["overlap"] = [
            [jaccard(k, m) for k, m in zip(row, moved, strict=True)] for row, moved in zip(keys, later, strict=True)
        ]
        found["mass_after"] = [[positive_mass(a.scores, k) for a, k in zip(after, row, strict=True)] for row in keys]
    return Sensitivity(
        rules=tuple(rules),
        labels=tuple(written(rule) for rule in rules),
        measures={name: torch.tensor(rows, dtype=torch.float64) for name, rows in found.items()},
        agreement=torch.tensor([[_mean(jaccard, a, b) for b in keys] for a in keys], dtype=torch.float64),
        items=len(attributions),
    )


def written(rule: KeyRule) -> str:
    """A rule as one would write it, without what is left as it is.

    >>> written(TopK(3)), written(Share(0.8, words=True))
    ('TopK(3)', 'Share(0.8, words=True)')
    """
    positional: tuple[str, ...] = type(rule).__match_args__
    own = [str(getattr(rule, name)) for name in positional]
    extras = [f"{name}=True" for name in ("words", "skip_punctuation") if getattr(rule, name)]
    if rule.stopwords:
        extras.append(f"{len(rule.stopwords)} stopwords")
    return f"{type(rule).__name__}({', '.join([*own, *extras])})"


def _mean(
    measure: Callable[[Sequence[int], Sequence[int]], float],
    ours: Sequence[tuple[int, ...]],
    theirs: Sequence[tuple[int, ...]],
) -> float:
    """The mean over the items where the measure is defined."""
    values = torch.tensor([measure(a, b) for a, b in zip(ours, theirs, strict=True)], dtype=torch.float64)
    return float(torch.nanmean(values))
