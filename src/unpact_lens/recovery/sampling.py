r"""Sample answers, and see whether the fact is among those that a model is likely to give.

*leak@k* is computed from n drawn answers of which c hold the fact: the chance that at least one of k holds it,

$$1 - \binom{n-c}{k} \Big/ \binom{n}{k},$$

averaged over facts. *Prob* is the probability of the fact's tokens after the start of the gold answer. *rank* is that
of its first token among all tokens; rank 1 is the most likely. With emphasised prompts, they show the joint effect of
emphasis and sampling.

Source: leak@k of arXiv 2511.04934; Prob of arXiv 2509.24675.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import fact_right, fact_tokens, prefill_for
from unpact_lens.models import hooked
from unpact_lens.models.batches import check_batch_tokens, length_batches, pad_right
from unpact_lens.models.draw import drawn
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.memory import run_batch_tokens
from unpact_lens.models.tokens import encode, encode_context
from unpact_lens.recovery.intervened_generation import continuations
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.probes.logit_lens import token_rank
from unpact_lens.recovery.result import RANDOM_WORDS
from unpact_lens.results import Result


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `leak` and `leak_emphasised`.

    Attributes:
        samples: Number of answers to draw for each prompt. Default 16.
        temperature: Sampling temperature, above 0. Default 1.
        seed: Random seed for the draws. Default 0. The draws also depend on `batch_tokens`.
        batch_tokens: Largest number of input tokens in one forward pass, padding included. Default: None, which is
            4096, or less where the free memory is small. `settings` of the result has the number.
    """

    samples: int
    temperature: float
    seed: int
    batch_tokens: int | None


@dataclass(frozen=True)
class Sampling:
    """Hold the options of `SamplingOptions` with their defaults, checked.

    Raises:
        InputError: If `samples` or `temperature` is not positive, or `batch_tokens` is not a positive whole number.
    """

    samples: int = 16
    temperature: float = 1.0
    seed: int = 0
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        check_batch_tokens(self.batch_tokens)
        if self.samples < 1:
            raise InputError(f"samples={self.samples}; give at least 1")
        if not self.temperature > 0:
            raise InputError(
                f"temperature={self.temperature}; give a positive number, 1 for the model's own probabilities"
            )


@dataclass(frozen=True, eq=False)
class Leak(Result):
    """Hold how likely a model gives each fact away.

    Attributes:
        ids: Ids of the facts.
        samples: Number n of answers drawn for each fact.
        held: Number c of them that hold the fact.
        probability: Probability of the fact's tokens, given the prompt and the start of the gold answer.
        rank: Rank of the fact's first token at that position. Rank 1 is the most likely.
        settings: Temperature, seed and batch budget.
    """

    ids: tuple[str, ...]
    samples: int
    held: Int[Tensor, " item"]
    probability: Float[Tensor, " item"]
    rank: Int[Tensor, " item"]
    settings: dict[str, Any]

    def _brief(self) -> str:
        return joined(
            [
                f"{self.samples} samples",
                f"{int((self.held > 0).sum())} of {len(self.ids)} facts leak",
                f"best rank {int(self.rank.min())}",
            ]
        )

    def at(self, k: int) -> float:
        """Compute leak@k, the mean over facts.

        Raises:
            InputError: If k is below 1 or above the number of samples.
        """
        return sum(leak_at_k(self.samples, c, k) for c in self.held.tolist()) / len(self.ids)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each fact."""
        return pd.DataFrame(
            {
                "id": self.ids,
                "held": self.held.tolist(),
                "probability": self.probability.tolist(),
                "rank": self.rank.tolist(),
            }
        )


def leak_at_k(samples: int, held: int, k: int) -> float:
    """Compute leak@k of one fact by the formula above.

    Args:
        samples: Number n of drawn answers.
        held: Number c of them that hold the fact.
        k: Number of answers to consider, from 1 to n.

    Raises:
        InputError: If a number is out of range.

    >>> leak_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= samples:
        raise InputError(f"k={k}; give a number from 1 to the {samples} answers that were drawn")
    if not 0 <= held <= samples <= 10**6:
        raise InputError(f"{held} of {samples} answers hold the fact; give 0 to n of at most a million")
    return 1 - math.comb(samples - held, k) / math.comb(samples, k)


def leak(
    model: HookedModel,
    items: Sequence[QA],
    *,
    bench: Benchmark,
    prompts: Sequence[str] | None = None,
    **options: Unpack[SamplingOptions],
) -> Leak:
    """Draw answers to each question, and compute the probability and rank of its fact.

    Args:
        model: Hooked model with a tokenizer.
        items: Questions.
        bench: Benchmark that gives the chat template, the answer prefix and the answer length.
        prompts: Prompt to ask for each question, e.g. with emphasis. If None, the plain prompts.
        **options: Number of samples, temperature, seed and batch budget; see `SamplingOptions`.

    Raises:
        InputError: If there are no questions, the numbers of prompts and questions differ, or `samples`, `temperature`
            or `batch_tokens` is not positive.
    """
    sampling = Sampling(**options)
    if not items:
        raise InputError("no questions; give the facts that were to be forgotten, e.g. bench.forget")
    if prompts is not None and len(prompts) != len(items):
        raise InputError(f"{len(prompts)} prompts for {len(items)} questions; give one for each")
    asked = [q.prompt for q in items] if prompts is None else list(prompts)
    prefills = [prefill_for(bench, q) for q in items]
    contexts = [
        encode_context(model, prompt, chat=bench.chat, prefill=p).context
        for prompt, p in zip(asked, prefills, strict=True)
    ]
    budget = run_batch_tokens(model, sampling.batch_tokens, max(map(len, contexts)) + bench.max_new_tokens)
    texts = continuations(
        model,
        [c for c in contexts for _ in range(sampling.samples)],
        max_new_tokens=bench.max_new_tokens,
        stop=bench.stop,
        choose=drawn(torch.Generator().manual_seed(sampling.seed), sampling.temperature),
        batch_tokens=budget,
    )
    n = sampling.samples
    held = [sum(fact_right(t, q) for t in texts[i * n : (i + 1) * n]) for i, q in enumerate(items)]
    probability, rank = _odds(model, items, asked, prefills, bench, budget)
    return Leak(
        ids=tuple(q.id for q in items),
        samples=n,
        held=torch.tensor(held),
        probability=probability,
        rank=rank,
        settings={"temperature": sampling.temperature, "seed": sampling.seed, "batch_tokens": budget},
    )


def leak_emphasised(
    model: HookedModel,
    plan: RecoveryPlan,
    *,
    template: str | None = None,
    limit: int | None = None,
    **options: Unpack[SamplingOptions],
) -> dict[str, Leak]:
    """Sample under the plain prompt, under emphasis, and under the same emphasis on random words, on the same facts.

    Args:
        model: Hooked model with a tokenizer.
        plan: Plan whose prompts are asked.
        template: Name of the emphasis template. If None, the headline.
        limit: Number of facts: the first ones that can be asked in all three ways. If None, all of them.
        **options: Number of samples, temperature, seed and batch budget; see `SamplingOptions`.

    Returns:
        One result for `"plain"`, one for the template, and one for `"random_words:"` with its name if it takes words.

    Raises:
        InputError: If the plan does not hold the template, no fact can be asked in all ways, or an option is refused by
            `leak`.
    """
    template = template or plan.headline
    sheet = plan.sheet
    if template not in EMPHASIS or template not in sheet.rows:
        held = [r for r in sheet.rows if r in EMPHASIS]
        raise InputError(f"template {template!r} is not in this plan; {nearest(str(template), held)}")
    rows = [r for r in (template, f"{RANDOM_WORDS}:{template}") if r in sheet.rows]
    index = [sheet.rows.index(r) for r in rows]
    fit = sheet.asked[index].all(0) & ~torch.tensor([q.id in plan.excluded for q in sheet.items])
    chosen = fit.nonzero()[:, 0].tolist()[:limit]
    if not chosen:
        raise InputError(f"no fact of this plan can be asked under {' and '.join(rows)}")
    items = [sheet.items[i] for i in chosen]
    asked = {"plain": [q.prompt for q in items]} | {
        r: [sheet.prompts[k][i] for i in chosen] for r, k in zip(rows, index, strict=True)
    }
    options = {**options, "batch_tokens": run_batch_tokens(model, options.get("batch_tokens"))}
    return {row: leak(model, items, bench=plan.bench, prompts=prompts, **options) for row, prompts in asked.items()}


def _odds(
    model: HookedModel,
    items: Sequence[QA],
    prompts: Sequence[str],
    prefills: Sequence[str],
    bench: Benchmark,
    batch_tokens: int,
) -> tuple[Float[Tensor, " item"], Int[Tensor, " item"]]:
    """Compute the probability of each fact's tokens and the rank of the first, after the start of the gold answer."""
    rows = [
        encode(model, prompt, q.answer, chat=bench.chat, prefill=p)
        for q, prompt, p in zip(items, prompts, prefills, strict=True)
    ]
    spans = [fact_tokens(model, row, q) for row, q in zip(rows, items, strict=True)]
    probability, rank = torch.zeros(len(items), dtype=torch.float64), torch.zeros(len(items), dtype=torch.long)
    device = hooked.device_of(model)
    with torch.inference_mode():
        for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
            width = max(spans[i][1] - spans[i][0] for i in batch)
            tokens = pad_right([rows[i].ids[:-1] for i in batch], device)
            first = torch.tensor([len(rows[i].context) - 1 + spans[i][0] for i in batch])
            where = (first[:, None] + torch.arange(width)).clamp(max=tokens.shape[1] - 1)  # [batch, width]
            log_probs = hooked.logits_at(model, tokens, where).double().log_softmax(-1).cpu()  # [batch, width, d_vocab]
            for row, i in enumerate(batch):
                start, end = spans[i]
                wanted = torch.tensor(rows[i].answer[start:end])
                own = log_probs[row, : end - start].gather(-1, wanted[:, None])[:, 0]
                probability[i] = own.sum().exp()
                rank[i] = token_rank(log_probs[row, :1], wanted[:1])[0]
    return probability, rank
