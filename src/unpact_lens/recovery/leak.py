r"""Sampling: is the fact among the answers that a model is likely to give, though it is not the first?

*leak@k*, from n drawn answers of which c hold the fact: the chance that at least one of k holds it,

$$1 - \binom{n-c}{k} \Big/ \binom{n}{k},$$

averaged over facts. *Prob* is the probability of the fact's tokens after the answer's opening, *rank* that of its first
token among all tokens, 1 for the most likely.

Source: leak@k of arXiv 2511.04934; Prob of arXiv 2509.24675.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.data.qa import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_right, fact_tokens, prefill_for
from unpact_lens.models import surface
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, encode, encode_context, length_batches, pad_right
from unpact_lens.recovery.continuations import continuations, drawn
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class Leak(Result):
    """How likely a model gives each fact away.

    Attributes:
        ids: of the facts.
        samples: n, answers drawn for each.
        held: c, how many of them hold the fact.
        probability: of the fact's tokens, given the prompt and the gold answer's opening.
        rank: of the fact's first token there, 1 is the most likely.
        settings: temperature, seed and the like.
    """

    ids: tuple[str, ...]
    samples: int
    held: Int[Tensor, " item"]
    probability: Float[Tensor, " item"]
    rank: Int[Tensor, " item"]
    settings: dict[str, Any]

    def at(self, k: int) -> float:
        """leak@k, the mean over facts.

        Raises:
            InputError: if k is below 1 or above the number of samples.
        """
        return sum(leak_at_k(self.samples, c, k) for c in self.held.tolist()) / len(self.ids)

    def to_frame(self) -> pd.DataFrame:
        """One row a fact."""
        return pd.DataFrame(
            {
                "id": self.ids,
                "held": self.held.tolist(),
                "probability": self.probability.tolist(),
                "rank": self.rank.tolist(),
            }
        )


def leak_at_k(samples: int, held: int, k: int) -> float:
    """The formula above, for one fact.

    >>> leak_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= samples:
        raise InputError(f"k={k}; give a number from 1 to the {samples} answers that were drawn")
    return 1 - math.comb(samples - held, k) / math.comb(samples, k)


def leak(
    model: Any,
    items: Sequence[QA],
    *,
    bench: Benchmark,
    samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Leak:
    """Draw answers to plain prompts, and look the fact up among the likely tokens.

    Args:
        model: a hooked model with a tokenizer.
        items: the questions.
        bench: how to ask: chat template, prefill, length of an answer.
        samples: answers to draw for each question.
        temperature: of the draw, > 0.
        seed: of the draw.
        batch_tokens: bound on the tokens of one batch.

    Raises:
        InputError: if there are no questions, or `samples` or `temperature` is not positive.
    """
    if not items:
        raise InputError("no questions; give the facts that were to be forgotten, e.g. bench.forget")
    if samples < 1:
        raise InputError(f"samples={samples}; give at least 1")
    if not temperature > 0:
        raise InputError(f"temperature={temperature}; give a positive number, 1 for the model's own probabilities")
    prefills = [prefill_for(bench, q) for q in items]
    contexts = [
        encode_context(model, q.prompt, chat=bench.chat, prefill=p).context
        for q, p in zip(items, prefills, strict=True)
    ]
    texts = continuations(
        model,
        [c for c in contexts for _ in range(samples)],
        max_new_tokens=bench.max_new_tokens,
        choose=drawn(torch.Generator().manual_seed(seed), temperature),
        batch_tokens=batch_tokens,
    )
    held = [sum(fact_right(t, q) for t in texts[i * samples : (i + 1) * samples]) for i, q in enumerate(items)]
    probability, rank = _odds(model, items, prefills, bench, batch_tokens)
    return Leak(
        ids=tuple(q.id for q in items),
        samples=samples,
        held=torch.tensor(held),
        probability=probability,
        rank=rank,
        settings={"temperature": temperature, "seed": seed, "batch_tokens": batch_tokens},
    )


def _odds(
    model: Any, items: Sequence[QA], prefills: Sequence[str], bench: Benchmark, batch_tokens: int
) -> tuple[Float[Tensor, " item"], Int[Tensor, " item"]]:
    """Probability of each fact's tokens, and rank of the first of them, after the gold answer's opening."""
    rows = [encode(model, q.prompt, q.answer, chat=bench.chat, prefill=p) for q, p in zip(items, prefills, strict=True)]
    spans = [fact_tokens(model, q) for q in items]
    probability, rank = torch.zeros(len(items), dtype=torch.float64), torch.zeros(len(items), dtype=torch.long)
    device = surface.device_of(model)
    with torch.inference_mode():
        for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
            width = max(spans[i][1] - spans[i][0] for i in batch)
            tokens = pad_right([rows[i].ids[:-1] for i in batch], device)
            first = torch.tensor([len(rows[i].context) - 1 + spans[i][0] for i in batch])
            where = (first[:, None] + torch.arange(width)).clamp(max=tokens.shape[1] - 1)
            log_probs = surface.logits_at(model, tokens, where).double().log_softmax(-1).cpu()
            for row, i in enumerate(batch):
                start, end = spans[i]
                wanted = torch.tensor(rows[i].answer[start:end])
                own = log_probs[row, : end - start].gather(-1, wanted[:, None])[:, 0]
                probability[i] = own.sum().exp()
                rank[i] = 1 + int((log_probs[row, 0] > own[0]).sum())
    return probability, rank
