r"""Sampling: is the fact among the answers that a model is likely to give, though it is not the first?

*leak@k*, from n drawn answers of which c hold the fact: the chance that at least one of k holds it,

$$1 - \binom{n-c}{k} \Big/ \binom{n}{k},$$

averaged over facts. *Prob* is the probability of the fact's tokens after the answer's opening, *rank* that of its first
token among all tokens, 1 for the most likely. With emphasised prompts they say what emphasis and sampling do together.

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

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import fact_right, fact_tokens, prefill_for
from unpact_lens.models import hooked
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, encode, encode_context, length_batches, pad_right
from unpact_lens.recovery.intervened_generation import continuations, drawn
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.probes.logit_lens import token_rank
from unpact_lens.recovery.result import RANDOM_WORDS
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
    prompts: Sequence[str] | None = None,
    samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Leak:
    """Draw answers, and look the fact up among the likely tokens.

    Args:
        model: a hooked model with a tokenizer.
        items: the questions.
        bench: how to ask: chat template, prefill, length of an answer.
        prompts: for each question what is asked instead, e.g. with emphasis; None for the plain prompts.
        samples: answers to draw for each question.
        temperature: of the draw, > 0.
        seed: of the draw.
        batch_tokens: bound on the tokens of one batch.

    Raises:
        InputError: if there are no questions, not as many prompts, or `samples` or `temperature` is not positive.
    """
    if not items:
        raise InputError("no questions; give the facts that were to be forgotten, e.g. bench.forget")
    if samples < 1:
        raise InputError(f"samples={samples}; give at least 1")
    if not temperature > 0:
        raise InputError(f"temperature={temperature}; give a positive number, 1 for the model's own probabilities")
    if prompts is not None and len(prompts) != len(items):
        raise InputError(f"{len(prompts)} prompts for {len(items)} questions; give one for each")
    asked = [q.prompt for q in items] if prompts is None else list(prompts)
    prefills = [prefill_for(bench, q) for q in items]
    contexts = [
        encode_context(model, prompt, chat=bench.chat, prefill=p).context
        for prompt, p in zip(asked, prefills, strict=True)
    ]
    texts = continuations(
        model,
        [c for c in contexts for _ in range(samples)],
        max_new_tokens=bench.max_new_tokens,
        choose=drawn(torch.Generator().manual_seed(seed), temperature),
        batch_tokens=batch_tokens,
    )
    held = [sum(fact_right(t, q) for t in texts[i * samples : (i + 1) * samples]) for i, q in enumerate(items)]
    probability, rank = _odds(model, items, asked, prefills, bench, batch_tokens)
    return Leak(
        ids=tuple(q.id for q in items),
        samples=samples,
        held=torch.tensor(held),
        probability=probability,
        rank=rank,
        settings={"temperature": temperature, "seed": seed, "batch_tokens": batch_tokens},
    )


def leak_emphasised(
    model: Any,
    plan: RecoveryPlan,
    *,
    template: str | None = None,
    limit: int | None = None,
    samples: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> dict[str, Leak]:
    """Sampling under emphasis, beside the plain prompt and the same emphasis on random words, on the same facts.

    Args:
        model: a hooked model with a tokenizer.
        plan: whose prompts are asked.
        template: the emphasis; None for the headline.
        limit: how many facts, the first that can be asked all three ways; None for all of them.
        samples: answers to draw for each prompt.
        temperature: of the draw, > 0.
        seed: of the draw.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        `"plain"`, the template, and `"random_words:"` with its name where it takes words.

    Raises:
        InputError: if the plan does not hold the template, no fact can be asked all ways, or for what `leak` refuses.
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
    return {
        row: leak(
            model, items, bench=plan.bench, prompts=prompts, samples=samples, temperature=temperature, seed=seed,
            batch_tokens=batch_tokens,
        )
        for row, prompts in asked.items()
    }  # fmt: skip


def _odds(
    model: Any,
    items: Sequence[QA],
    prompts: Sequence[str],
    prefills: Sequence[str],
    bench: Benchmark,
    batch_tokens: int,
) -> tuple[Float[Tensor, " item"], Int[Tensor, " item"]]:
    """Probability of each fact's tokens, and rank of the first of them, after the gold answer's opening."""
    rows = [
        encode(model, prompt, q.answer, chat=bench.chat, prefill=p)
        for q, prompt, p in zip(items, prompts, prefills, strict=True)
    ]
    spans = [fact_tokens(model, q) for q in items]
    probability, rank = torch.zeros(len(items), dtype=torch.float64), torch.zeros(len(items), dtype=torch.long)
    device = hooked.device_of(model)
    with torch.inference_mode():
        for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
            width = max(spans[i][1] - spans[i][0] for i in batch)
            tokens = pad_right([rows[i].ids[:-1] for i in batch], device)
            first = torch.tensor([len(rows[i].context) - 1 + spans[i][0] for i in batch])
            where = (first[:, None] + torch.arange(width)).clamp(max=tokens.shape[1] - 1)
            log_probs = hooked.logits_at(model, tokens, where).double().log_softmax(-1).cpu()
            for row, i in enumerate(batch):
                start, end = spans[i]
                wanted = torch.tensor(rows[i].answer[start:end])
                own = log_probs[row, : end - start].gather(-1, wanted[:, None])[:, 0]
                probability[i] = own.sum().exp()
                rank[i] = token_rank(log_probs[row, :1], wanted[:1])[0]
    return probability, rank
