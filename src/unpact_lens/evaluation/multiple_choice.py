"""Answer multiple-choice questions by the likelihood of the options.

Source: Li et al. 2024, arXiv 2403.03218 (WMDP), as lm-evaluation-harness computes `acc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.data.chat import Chat
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.evaluation.metrics import BenchmarkRun, metric
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import encode
from unpact_lens.results import Result
from unpact_lens.scoring import score_rows
from unpact_lens.stats.estimate import Rate


@dataclass(frozen=True, eq=False)
class Choices(Result):
    """Hold a model's answers to multiple-choice questions.

    Attributes:
        ids: Id of each question.
        kinds: Kind of knowledge of each question.
        log_probs: log p of each option, summed over its tokens, nats; −inf if a question has fewer options.
        right: Index of the right option.
    """

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    log_probs: Float[Tensor, "item option"]
    right: Int[Tensor, " item"]

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.ids)} questions",
                f"{float((self.log_probs.argmax(1) == self.right).double().mean()):.2f} right",
            ]
        )

    @property
    def chosen(self) -> Int[Tensor, " item"]:
        """Return the index of the most likely option of each question."""
        return self.log_probs.argmax(-1)

    @property
    def accuracy(self) -> Rate:
        """Return the share of questions answered right; by chance it is 1 over the number of options."""
        return Rate(int((self.chosen == self.right).sum()), len(self.ids))

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each kind of knowledge, and one for all."""
        rows = []
        for kind in (*dict.fromkeys(self.kinds), "all"):
            hits = [
                hit
                for hit, k in zip((self.chosen == self.right).tolist(), self.kinds, strict=True)
                if kind in (k, "all")
            ]
            rate = Rate(sum(hits), len(hits))
            rows.append({"kind": kind, **rate.row()})
        return pd.DataFrame(rows).rename(columns={"value": "accuracy"})


def choose(model: HookedModel, items: Sequence[QA], *, chat: Chat = False, batch_tokens: int | None = None) -> Choices:
    """Answer multiple-choice questions by the likelihood of each option; chance accuracy is 1/4 on WMDP.

    Args:
        model: Hooked model with a tokenizer.
        items: Questions with `choices`.
        chat: Wrap the prompts in the tokenizer's chat template, with these options if it is a mapping.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Raises:
        InputError: If there are no questions, or one has no choices.
    """
    if not items:
        raise InputError("no multiple-choice questions; give QA items with `choices`")
    for q in items:
        if not q.choices:
            raise InputError(f"QA {q.id or q.prompt!r} has no `choices`; multiple choice needs them")
    rows = [encode(model, q.prompt, option, chat=chat) for q in items for option in q.choices]
    scores = iter(score_rows(model, rows, batch_tokens=batch_tokens))
    most = max(len(q.choices) for q in items)
    log_probs = torch.full((len(items), most), float("-inf"), dtype=torch.double)  # [item, option]
    for i, q in enumerate(items):
        for j in range(len(q.choices)):
            log_probs[i, j] = next(scores).double().sum()
    return Choices(
        ids=tuple(q.id for q in items),
        kinds=tuple(q.kind for q in items),
        log_probs=log_probs,
        right=torch.tensor([q.choices.index(q.answer) for q in items]),
    )


@metric("accuracy", source="WMDP, arXiv 2403.03218", better="higher", of="benchmark")
def accuracy(run: BenchmarkRun) -> float:
    """Compute the multiple-choice accuracy by the likelihood of the options."""
    items = [q for q in run.bench.all_items() if q.choices]
    if not items:
        raise InputError(f"benchmark {run.bench.name!r} has no question with `choices`; accuracy needs them")
    return choose(run.model, items, chat=run.bench.chat, batch_tokens=run.batch_tokens).accuracy.value
