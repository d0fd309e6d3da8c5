"""Multiple choice: which of the options the model holds most likely.

Source: Li et al. 2024, arXiv 2403.03218 (WMDP), as lm-evaluation-harness computes `acc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, encode
from unpact_lens.results import Result
from unpact_lens.scoring import score_rows
from unpact_lens.stats.estimate import Rate


@dataclass(frozen=True, eq=False)
class Choices(Result):
    """What a model chose.

    Attributes:
        ids: id of each question.
        kinds: kind of knowledge of each.
        log_probs: log p of each option, summed over its tokens, nats; −inf where a question has fewer options.
        right: index of the right option.
    """

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    log_probs: Float[Tensor, "item option"]
    right: Int[Tensor, " item"]

    @property
    def chosen(self) -> Int[Tensor, " item"]:
        """Index of the most likely option."""
        return self.log_probs.argmax(-1)

    @property
    def accuracy(self) -> Rate:
        """Share of questions answered right, with its interval; chance is one over the number of options."""
        return Rate(int((self.chosen == self.right).sum()), len(self.ids))

    def to_frame(self) -> pd.DataFrame:
        """One row a kind of knowledge, and one for all."""
        rows = []
        for kind in (*dict.fromkeys(self.kinds), "all"):
            hits = [
                hit
                for hit, k in zip((self.chosen == self.right).tolist(), self.kinds, strict=True)
                if kind in (k, "all")
            ]
            rate = Rate(sum(hits), len(hits))
            rows.append({"kind": kind, "accuracy": rate.value, "low": rate.low, "high": rate.high, "n": rate.n})
        return pd.DataFrame(rows)


def choose(model: Any, items: Sequence[QA], *, chat: bool = False, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> Choices:
    """Answer multiple-choice questions by the likelihood of each option. Accuracy ranges 0 to 1; chance is ¼ on WMDP.

    Args:
        model: a hooked model with a tokenizer.
        items: questions with `choices`.
        chat: wrap the prompts in the tokenizer's chat template.
        batch_tokens: bound on the tokens of one batch.

    Raises:
        InputError: if there are none, or one has no choices.
    """
    if not items:
        raise InputError("no multiple-choice questions; give QA items with `choices`")
    for q in items:
        if not q.choices:
            raise InputError(f"QA {q.id or q.prompt!r} has no `choices`; multiple choice needs them")
    rows = [encode(model, q.prompt, option, chat=chat) for q in items for option in q.choices]
    scores = iter(score_rows(model, rows, batch_tokens=batch_tokens))
    log_probs = torch.full((len(items), max(len(q.choices) for q in items)), float("-inf"), dtype=torch.double)
    for i, q in enumerate(items):
        for j in range(len(q.choices)):
            log_probs[i, j] = next(scores).double().sum()
    return Choices(
        ids=tuple(q.id for q in items),
        kinds=tuple(q.kind for q in items),
        log_probs=log_probs,
        right=torch.tensor([q.choices.index(q.answer) for q in items]),
    )
