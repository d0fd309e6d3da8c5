"""What an attribution gives back: one score for each unit of the prompt, and the KeyTokens picked from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.results import Result

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.attribution.key_tokens import KeyRule


@dataclass(frozen=True, eq=False)
class Attribution(Result):
    """How much each unit of a prompt contributes to an answer.

    Rows are units (tokens, unless asked otherwise) of the prompt in their order; BOS has a row only if it was asked
    for, template tokens and the prefill never have one.

    Attributes:
        tokens: the text of each row.
        token_ids: ids of the attributed tokens (`members` says which belong to a row).
        answer_tokens: the text of each answer token.
        answer_ids: their ids.
        scores: C(x_i, y), one a row; nats for targets in nats, else the target's unit.
        per_answer_token: the same for each answer token; its mean over the answer is `scores`. One column only if the
            target is a single number for the whole answer.
        log_prob: LP(x, y) under the whole prompt, nats.
        method: name in `attribution_methods()`.
        units: `"token"`, `"word"`, `"sentence"` or `"spans"`.
        target: what is attributed, e.g. `"log_prob"`.
        deletion: how a unit is removed: `"ids"` (deleted from the token ids), `"text"` (deleted from the text, which is
            then tokenised anew), or `"none"` where the method removes nothing.
        prompt: the prompt's text.
        answer: the answer's text.
        members: for each row, which of `token_ids` it holds.
        spans: for each row, its characters `(start, end)` in `prompt`; `(0, 0)` for BOS.
        answer_source: `"given"`, or `"greedy"` if it is what the model itself says (answer-free KeyTokens).
        head_ids: what the model reads before the prompt: BOS, the opening of a chat template.
        tail_ids: what it reads after the prompt: the rest of the template, the prefill.
        bos_row: whether the first row is BOS.
        error: standard error of `scores` where the method samples.
        convergence_delta: what integrated gradients leave unexplained, in the target's unit.
        id: of the QA it came from.
        subject: whom or what the fact is about.
        settings: what was in force: `batch_tokens`, `threads`, and the method's own options.
    """

    figure: ClassVar[str | None] = "attribution:token_heatmap"
    view: ClassVar[str | None] = "attribution:html_tokens"

    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    answer_tokens: tuple[str, ...]
    answer_ids: tuple[int, ...]
    scores: Float[Tensor, " prompt"]
    per_answer_token: Float[Tensor, "prompt answer"]
    log_prob: float
    method: str
    units: str
    target: str
    deletion: str
    prompt: str
    answer: str
    members: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...]
    answer_source: str = "given"
    head_ids: tuple[int, ...] = ()
    tail_ids: tuple[int, ...] = ()
    bos_row: bool = False
    error: Float[Tensor, " prompt"] | None = None
    convergence_delta: float | None = None
    id: str = ""
    subject: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def key_tokens(self, rule: KeyRule) -> KeyTokens:
        """The KeyTokens under `rule`: `TopK(k)`, `Share(p)` or `Threshold(t)`."""
        return rule.pick(self)

    def to_frame(self) -> pd.DataFrame:
        """One row a unit: its text, its score, and its score towards each answer token."""
        import pandas as pd

        frame = pd.DataFrame({"token": self.tokens, "score": self.scores.tolist()})
        if self.error is not None:
            frame["error"] = self.error.tolist()
        if self.per_answer_token.shape[1] == len(self.answer_tokens):
            for k, token in enumerate(self.answer_tokens):
                frame[f"{token}_{k}"] = self.per_answer_token[:, k].tolist()
        return frame


@dataclass(frozen=True, eq=False)
class KeyTokens(Result):
    """The units of a prompt on which an answer hangs, by a stated rule.

    Attributes:
        indices: rows of the attribution, largest contribution first.
        tokens: their text.
        scores: their contributions.
        words: the whole words of the prompt that they belong to, in the prompt's order, each once: what an emphasis
            template takes.
        rule: the rule that picked them.
        mass: their share of the positive contributions of all rows; NaN where none is positive.
        answer_source: `"given"` (oracle-assisted where that is the gold answer) or `"greedy"` (answer-free).
    """

    figure: ClassVar[str | None] = None

    indices: tuple[int, ...]
    tokens: tuple[str, ...]
    scores: Float[Tensor, " key"]
    words: tuple[str, ...]
    rule: KeyRule
    mass: float
    answer_source: str = "given"

    def to_frame(self) -> pd.DataFrame:
        """One row a KeyToken."""
        import pandas as pd

        return pd.DataFrame({"index": self.indices, "token": self.tokens, "score": self.scores.tolist()})


def positive_mass(scores: Float[Tensor, " prompt"], rows: tuple[int, ...]) -> float:
    r"""Share of the positive contributions that stands in some rows: $\sum_{i\in K} C_i^+ / \sum_i C_i^+$.

    NaN where no contribution is positive.
    """
    positive = scores.double().clamp(min=0)
    total = positive.sum()
    if total == 0:
        return float("nan")
    return float(positive[torch.tensor(rows, dtype=torch.long)].sum() / total)


@dataclass(frozen=True, eq=False)
class Interactions(Result):
    r"""What removing two units together costs beyond removing each alone.

    Attributes:
        tokens: the text of each unit chosen.
        matrix: $C_{ij} - C_i - C_j$, averaged over the answer; symmetric, NaN on the diagonal. Positive: redundant, the
            one can stand in for the other; negative: they work only together.
        single: $C_i$, one a unit.
        pair: $C_{ij}$, the contribution of the two together; NaN on the diagonal.
        indices: which units of the prompt these are.
        units: how the prompt was cut.
        target: what is attributed.
        prompt: the prompt's text.
        answer: the answer's text.
        settings: what was in force.
    """

    figure: ClassVar[str | None] = "attribution:interactions"

    tokens: tuple[str, ...]
    matrix: Float[Tensor, "unit unit"]
    single: Float[Tensor, " unit"]
    pair: Float[Tensor, "unit unit"]
    indices: tuple[int, ...]
    units: str
    target: str
    prompt: str
    answer: str
    settings: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row a pair, the strongest interaction first."""
        import pandas as pd

        rows = [
            {
                "i": self.indices[a],
                "j": self.indices[b],
                "first": self.tokens[a],
                "second": self.tokens[b],
                "interaction": float(self.matrix[a, b]),
                "together": float(self.pair[a, b]),
            }
            for a in range(len(self.tokens))
            for b in range(a + 1, len(self.tokens))
        ]
        return pd.DataFrame(rows).sort_values("interaction", key=abs, ascending=False, ignore_index=True)


@dataclass(frozen=True, eq=False)
class Sensitivity(Result):
    """How the KeyTokens, and what is concluded from them, move with the rule that picks them.

    Attributes:
        rules: the rules compared.
        labels: how each is written.
        measures: for each name in `SENSITIVITY`, its value for each rule and item.
        agreement: mean Jaccard overlap of the KeyTokens of each two rules.
        items: how many attributions were given.
    """

    figure: ClassVar[str | None] = "attribution:sensitivity"

    rules: tuple[KeyRule, ...]
    labels: tuple[str, ...]
    measures: dict[str, Float[Tensor, "rule item"]]
    agreement: Float[Tensor, "rule rule"]
    items: int

    def to_frame(self) -> pd.DataFrame:
        """One row a rule: the mean of each measure over the items where it is defined."""
        import pandas as pd

        means = {name: torch.nanmean(values, dim=1).tolist() for name, values in self.measures.items()}
        return pd.DataFrame({"rule": self.labels, **means})


@dataclass(frozen=True, eq=False)
class Faithfulness(Result):
    """Whether units that a method ranks high matter to the model: what happens when they go, or alone remain.

    Attributes:
        method: whose ranking it is.
        fractions: of the units, from 0 to 1: the points of the curves.
        deletion: the target after removing that fraction, the highest ranked first; one row an item, NaN where nothing
            would remain before the answer.
        insertion: the target with only that fraction present, the highest ranked first.
        aopc: mean of v(x) - deletion over the curve: larger is more faithful.
        insertion_gain: mean of insertion - v(nothing but what cannot be removed): larger is more faithful.
        comprehensiveness: mean loss when the top `bins` fractions are removed: larger is more faithful.
        sufficiency: mean loss when only the top `bins` fractions remain: smaller is more faithful.
        bins: the fractions of the last two.
        target: what is measured, e.g. `"log_prob"` (nats).
    """

    figure: ClassVar[str | None] = "attribution:faithfulness_curves"

    method: str
    fractions: Float[Tensor, " point"]
    deletion: Float[Tensor, "item point"]
    insertion: Float[Tensor, "item point"]
    aopc: Float[Tensor, " item"]
    insertion_gain: Float[Tensor, " item"]
    comprehensiveness: Float[Tensor, " item"]
    sufficiency: Float[Tensor, " item"]
    bins: tuple[float, ...]
    target: str

    def to_frame(self) -> pd.DataFrame:
        """One row an item."""
        import pandas as pd

        names = ("aopc", "insertion_gain", "comprehensiveness", "sufficiency")
        return pd.DataFrame({name: getattr(self, name).tolist() for name in names})


@dataclass(frozen=True, eq=False)
class MethodComparison(Result):
    """Attribution methods side by side on the same prompts.

    Attributes:
        methods: their names; `"random"`, if it is among them, ranks units at random and is what the others must beat.
        spearman: mean rank correlation of each two methods' scores.
        jaccard: mean overlap of each two methods' k highest units.
        k: of `jaccard`.
        faithfulness: one result a method, in their order.
        stability: for each method, mean rank correlation of word scores between a prompt and its paraphrases, over the
            words they share; NaN where there are no paraphrases.
        stability_jaccard: the same as overlap of the k highest words.
        seconds: wall time of each method for one prompt.
        items: how many prompts.
        units: how they were cut.
    """

    figure: ClassVar[str | None] = "attribution:method_comparison"

    methods: tuple[str, ...]
    spearman: Float[Tensor, "method method"]
    jaccard: Float[Tensor, "method method"]
    k: int
    faithfulness: tuple[Faithfulness, ...]
    stability: Float[Tensor, " method"]
    stability_jaccard: Float[Tensor, " method"]
    seconds: Float[Tensor, " method"]
    items: int
    units: str

    def to_frame(self) -> pd.DataFrame:
        """One row a method: agreement with the first, faithfulness, stability, time."""
        import pandas as pd

        names = ("aopc", "insertion_gain", "comprehensiveness", "sufficiency")
        return pd.DataFrame(
            {
                "method": self.methods,
                f"spearman with {self.methods[0]}": self.spearman[0].tolist(),
                f"jaccard@{self.k} with {self.methods[0]}": self.jaccard[0].tolist(),
                **{n: [float(torch.nanmean(getattr(f, n))) for f in self.faithfulness] for n in names},
                "stability": self.stability.tolist(),
                f"stability jaccard@{self.k}": self.stability_jaccard.tolist(),
                "seconds": self.seconds.tolist(),
            }
        )
