"""Measure how conclusions about KeyTokens change with the rule that chooses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.key_tokens import Share, Threshold, TopK
from unpact_lens.attribution.result import Attribution, KeyRule, positive_mass
from unpact_lens.attribution.similarity import jaccard
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.results import Result

if TYPE_CHECKING:
    import pandas as pd

RULES: tuple[KeyRule, ...] = (
    *(TopK(k) for k in (1, 2, 3, 5, 8)),
    *(Share(s) for s in (0.5, 0.7, 0.8, 0.9)),
    *(Threshold(t) for t in (0.05, 0.1, 0.2, 0.5)),
)
"""Default rules of a sweep."""

SENSITIVITY: dict[str, str] = {
    "count": "number of KeyTokens",
    "mass": "share of the positive contributions on the KeyTokens",
    "reference": "Jaccard overlap with the KeyTokens of the first rule",
    "overlap": "Jaccard overlap of the KeyTokens of the original and the unlearned model (needs `after`)",
    "mass_after": "share of the unlearned model's positive contributions on the original KeyTokens (needs `after`)",
}
"""Measures of `sensitivity` for each rule and item."""


@dataclass(frozen=True, eq=False)
class Sensitivity(Result):
    """Hold how the KeyTokens, and conclusions from them, change with the rule that chooses them.

    Attributes:
        rules: Rules compared.
        labels: Each rule as text.
        measures: For each name in `SENSITIVITY`, its value for each rule and item.
        agreement: Mean Jaccard overlap of the KeyTokens, for each pair of rules.
        items: Number of attributions.
    """

    figure: ClassVar[str | None] = "attribution:sensitivity"

    rules: tuple[KeyRule, ...]
    labels: tuple[str, ...]
    measures: dict[str, Float[Tensor, "rule item"]]
    agreement: Float[Tensor, "rule rule"]
    items: int

    def _brief(self) -> str:
        return joined(
            [f"{len(self.rules)} rules", f"{self.items} prompts", f"overlap from {float(self.agreement.min()):.2f}"]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each rule: the mean of each measure over the items with a defined value."""
        import pandas as pd

        means = {name: torch.nanmean(values, dim=1).tolist() for name, values in self.measures.items()}
        return pd.DataFrame({"rule": self.labels, **means})


def sensitivity(
    attributions: Sequence[Attribution],
    rules: Sequence[KeyRule] = RULES,
    after: Sequence[Attribution] | None = None,
) -> Sensitivity:
    """Compare the KeyTokens under many rules: their number, their mass, their overlap, and the effect on a comparison.

    Args:
        attributions: Attributions of some prompts.
        rules: Rules to compare; the first is the reference.
        after: Attributions of the same prompts under another model. They show how overlap and mass shift change with
            the rule.

    Returns:
        The measures of `SENSITIVITY`, and the agreement of the rules.

    Raises:
        InputError: If there are no attributions or rules, or `after` is not of the same prompts.

    Source: requested by reviewers of arXiv 2509.24675, whose rule (Eq. 3 and 4) has unpublished thresholds.
    """
    if not attributions or not rules:
        raise InputError(f"{len(attributions)} attributions and {len(rules)} rules; give at least one of each")
    if after is not None and [a.token_ids for a in after] != [a.token_ids for a in attributions]:
        raise InputError("the attributions in after= are not of the same prompts as the first ones")
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
    """Write a rule as text, without its defaults.

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
    """Average over the items with a defined value."""
    values = torch.tensor([measure(a, b) for a, b in zip(ours, theirs, strict=True)], dtype=torch.float64)
    return float(torch.nanmean(values))
