"""How much of the forget set a model can still recite.

Source: Wang et al. 2025, arXiv 2502.19301 (extraction strength, after Carlini et al. 2021), Tirumala et al. 2022, arXiv
2205.10770 (exact memorisation), Shi et al. 2024, arXiv 2407.06460 (MUSE: verbmem, knowmem).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, text_ids
from unpact_lens.results import Result

VERBMEM_TOKENS = 128
KNOWMEM_TOKENS = 32
KNOWMEM_STOPS = ("\n\n", "\nQuestion", "Question:")
"""What MUSE generates, and where it cuts an answer off."""


def extraction_strength(right: Bool[Tensor, " answer"]) -> float:
    """How little of an answer must be given for the model to complete the rest: `1 − k/T`, greedily.

    k is the least number of given tokens after which all further ones are the most likely. Range 1/T to 1, lower after
    unlearning: as in the public implementation, an answer whose last token is wrong still counts 1/T.

    Args:
        right: whether each token is the most likely one, given the gold answer before it.

    >>> extraction_strength(torch.tensor([False, True, True, True]))
    0.75
    """
    wrong = (~right).nonzero()
    given = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1 - min(given, len(right) - 1) / len(right)


def exact_memorisation(right: Bool[Tensor, " answer"]) -> float:
    """Share of the answer's tokens that are the most likely ones, given the gold answer before them. Range 0 to 1.

    >>> exact_memorisation(torch.tensor([False, True, True, True]))
    0.75
    """
    return float(right.double().mean())


@cache
def _unstemmed() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=False)


def muse_rouge(generated: str, gold: str) -> float:
    """F1 of ROUGE-L without stemming, as MUSE scores both of its memorisation metrics. Range 0 to 1."""
    return float(_unstemmed().score(gold, generated)["rougeL"].fmeasure)


@dataclass(frozen=True, eq=False)
class Memorisation(Result):
    """MUSE's verbmem or knowmem of one model, item by item.

    Attributes:
        metric: `"verbmem"` or `"knowmem"`.
        ids: id of each item.
        groups: group of each.
        generated: what the model wrote.
        gold: what it was compared with.
        scores: ROUGE-L F1 of each, 0 to 1.
    """

    metric: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    generated: tuple[str, ...]
    gold: tuple[str, ...]
    scores: Float[Tensor, " item"]

    def value(self, group: str | None = None) -> float:
        """Mean of the scores, times 100 as MUSE prints it; NaN where the group is empty."""
        kept = [s for s, g in zip(self.scores.tolist(), self.groups, strict=True) if group in (None, g)]
        return 100 * sum(kept) / len(kept) if kept else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """One row an item."""
        return pd.DataFrame(
            {
                "id": self.ids,
                "group": self.groups,
                "generated": self.generated,
                "gold": self.gold,
                self.metric: self.scores.numpy(),
            }
        )


def verbmem(
    model: Any,
    bench: Benchmark,
    *,
    max_new_tokens: int = VERBMEM_TOKENS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Memorisation:
    """Verbatim memorisation: given the opening of a passage, how much of its continuation is recited. 0 to 100.

    Args:
        model: a hooked model with a tokenizer.
        bench: a benchmark with `verbatim` passages.
        max_new_tokens: how much is written, and compared with as many tokens of the passage.
        batch_tokens: bound on the tokens of one batch.

    Raises:
        InputError: if the benchmark has no passages.
    """
    if not bench.verbatim:
        raise InputError(f"benchmark {bench.name!r} has no `verbatim` passages; verbmem needs them")
    gold = [model.tokenizer.decode(text_ids(model, q.answer, "passage")[:max_new_tokens]) for q in bench.verbatim]
    prompts = [q.prompt for q in bench.verbatim]
    generated = generate_answers(model, prompts, max_new_tokens=max_new_tokens, stop=(), batch_tokens=batch_tokens)
    return _memorisation("verbmem", bench.verbatim, generated, gold)


def knowmem(
    model: Any,
    bench: Benchmark,
    *,
    max_new_tokens: int = KNOWMEM_TOKENS,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Memorisation:
    """Knowledge memorisation: questions about the text, after the benchmark's solved examples. 0 to 100.

    Args:
        model: a hooked model with a tokenizer.
        bench: its forget and retain questions are asked; `value("forget")` and `value("far")` tell them apart.
        max_new_tokens: how long an answer may get.
        batch_tokens: bound on the tokens of one batch.
    """
    items = (*bench.forget, *bench.retain)
    generated = generate_answers(
        model,
        [bench.few_shot.get(q.group, "") + q.prompt for q in items],
        chat=bench.chat,
        max_new_tokens=max_new_tokens,
        stop=KNOWMEM_STOPS,
        batch_tokens=batch_tokens,
    )
    return _memorisation("knowmem", items, generated, [q.answer for q in items])


def _memorisation(metric: str, items: Sequence[QA], generated: Sequence[str], gold: Sequence[str]) -> Memorisation:
    return Memorisation(
        metric=metric,
        ids=tuple(q.id for q in items),
        groups=tuple(q.group for q in items),
        generated=tuple(generated),
        gold=tuple(gold),
        scores=torch.tensor([muse_rouge(g, t) for g, t in zip(generated, gold, strict=True)], dtype=torch.double),
    )
