"""Finding 1: does unlearning move the model's focus? Contributions before against contributions after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.key_tokens import KeyRule
from unpact_lens.attribution.result import Attribution
from unpact_lens.results import Result

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
    """

    figure: ClassVar[str | None] = "focus:focus_shift"

    before: tuple[Attribution, ...]
    after: tuple[Attribution, ...]
    measures: dict[str, Float[Tensor, " item"]]
    means: dict[str, Float[Tensor, " 4"]]
    rule: KeyRule
    level: float = 0.95
    seed: int = 0

    def to_frame(self) -> pd.DataFrame:
        """One row a measure: mean, interval, number of items, and what it says."""
        import pandas as pd

        rows = [
            {"measure": k, "mean": m[0], "low": m[1], "high": m[2], "n": int(m[3]), "about": MEASURES[k]}
            for k, m in ((k, v.tolist()) for k, v in self.means.items())
        ]
        return pd.DataFrame(rows)

    def items(self) -> pd.DataFrame:
        """One row an item: its id, subject, prompt, and every measure."""
        import pandas as pd

        about = {k: [getattr(a, k) for a in self.before] for k in ("id", "subject", "prompt", "answer")}
        return pd.DataFrame({**about, **{k: v.tolist() for k, v in self.measures.items()}})
