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
        error: standard error of `scores` where the method samples.
        convergence_delta: what integrated gradients leave unexplained, in the target's unit.
        id: of the QA it came from.
        subject: whom or what the fact is about.
        settings: what was in force: `batch_tokens`, `threads`, and the method's own options.
    """

    figure: ClassVar[str | None] = "attribution:token_heatmap"

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
