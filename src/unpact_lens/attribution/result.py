"""Hold the result of an attribution: one score for each unit of a prompt, and the KeyTokens chosen from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.display import joined, largest, quoted
from unpact_lens.results import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Attribution(Result):
    """Hold how much each unit of a prompt contributes to an answer.

    Rows are the units of the prompt (tokens by default), in order. BOS has a row only on request. The tokens of a chat
    template and of the answer prefix never have one.

    Attributes:
        tokens: Text of each row.
        token_ids: Ids of the attributed tokens (`members` assigns them to rows).
        answer_tokens: Text of each answer token.
        answer_ids: Ids of the answer tokens.
        scores: C(x_i, y) for each row, in nats for targets in nats, else in the target's unit.
        per_answer_token: Score of each row for each answer token; the mean over the answer is `scores`. One column if
            the target is a single number for the whole answer.
        log_prob: LP(x, y) under the whole prompt, nats.
        method: Name in `attribution_methods()`.
        units: `"token"`, `"word"`, `"sentence"` or `"spans"`.
        target: Name of what is attributed, e.g. `"log_prob"`.
        deletion: How a unit is removed: `"ids"` (deleted from the token ids), `"text"` (deleted from the text, which is
            tokenised again), or `"none"` if the method removes nothing.
        prompt: Text of the prompt.
        answer: Text of the answer.
        members: Indices into `token_ids` of each row's tokens.
        spans: Characters `(start, end)` of each row in `prompt`; `(0, 0)` for BOS.
        answer_source: `"given"`, or `"greedy"` for the model's own answer (answer-free KeyTokens).
        head_ids: Ids before the prompt: BOS, the beginning of a chat template.
        tail_ids: Ids after the prompt: the rest of the template, the answer prefix.
        bos_row: Whether the first row is BOS.
        error: Standard error of `scores`, if the method samples.
        convergence_delta: What integrated gradients leave unexplained, in the target's unit.
        id: Identifier of the QA.
        subject: Subject of the fact.
        settings: `batch_tokens`, `threads`, the options of the chat template if any were given, and the method's own
            options, as used.
        notes: Notes for the reader, e.g. that prompt and answer share a token.
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
    notes: tuple[str, ...] = ()

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.tokens)} rows by {self.units}",
                quoted(self.answer, 20),
                f"LP {self.log_prob:.2f} nats",
                largest(self.scores, (self.tokens,)),
                self.method,
            ]
        )

    def key_tokens(self, rule: KeyRule) -> KeyTokens:
        """Choose the KeyTokens under a rule: `TopK(k)`, `Share(p)` or `Threshold(t)`."""
        return rule.pick(self)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each unit: text, score, and score for each answer token."""
        import pandas as pd

        frame = pd.DataFrame({"token": self.tokens, "score": self.scores.tolist()})
        if self.error is not None:
            frame["error"] = self.error.tolist()
        if self.per_answer_token.shape[1] == len(self.answer_tokens):
            for k, token in enumerate(self.answer_tokens):
                frame[f"{token}_{k}"] = self.per_answer_token[:, k].tolist()
        return frame


@dataclass(frozen=True, kw_only=True)
class KeyRule(ABC):
    """Choose KeyTokens from an attribution; `TopK`, `Share` and `Threshold` are the rules.

    Attributes:
        words: Rank whole words by the sum of their pieces' contributions, and take all pieces of a chosen word.
        stopwords: Words, in lower case, that are never key, e.g. `ENGLISH_FUNCTION_WORDS`. Default: none.
        skip_punctuation: Exclude units without a letter or digit. Default: off.
    """

    words: bool = False
    stopwords: tuple[str, ...] = ()
    skip_punctuation: bool = False

    @abstractmethod
    def pick(self, attribution: Attribution) -> KeyTokens:
        """Choose the KeyTokens of an attribution."""


@dataclass(frozen=True, eq=False)
class KeyTokens(Result):
    """Hold the units of a prompt on which an answer depends, by a stated rule.

    Attributes:
        indices: Rows of the attribution, the largest contribution first.
        tokens: Text of the rows.
        scores: Contributions of the rows.
        words: Whole words of the prompt that the rows belong to, in the prompt's order, each once. Emphasis templates
            take these.
        rule: Rule that chose them.
        mass: Share of the positive contributions of all rows; NaN if none is positive.
        answer_source: `"given"` (oracle-assisted if that is the gold answer) or `"greedy"` (answer-free).
    """

    figure: ClassVar[str | None] = None

    indices: tuple[int, ...]
    tokens: tuple[str, ...]
    scores: Float[Tensor, " key"]
    words: tuple[str, ...]
    rule: KeyRule
    mass: float
    answer_source: str = "given"

    def _brief(self) -> str:
        return joined(
            [
                quoted(" ".join(self.words or self.tokens), 40),
                f"{len(self.indices)} tokens",
                f"mass {self.mass:.2f}",
                type(self.rule).__name__,
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each KeyToken."""
        import pandas as pd

        return pd.DataFrame({"index": self.indices, "token": self.tokens, "score": self.scores.tolist()})


def positive_mass(scores: Float[Tensor, " prompt"], rows: tuple[int, ...]) -> float:
    r"""Compute the share of the positive contributions on some rows: $\sum_{i\in K} C_i^+ / \sum_i C_i^+$.

    NaN if no contribution is positive.
    """
    positive = scores.double().clamp(min=0)
    total = positive.sum()
    if total == 0:
        return float("nan")
    return float(positive[torch.tensor(rows, dtype=torch.long)].sum() / total)
