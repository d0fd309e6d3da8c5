"""Compute MUSE's metrics of memorisation: verbmem and knowmem. Its privacy leakage is in `membership_inference.py`.

Source: Shi et al. 2024, arXiv 2407.06460.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.evaluation.metrics import BenchmarkRun, metric
from unpact_lens.evaluation.rouge import is_latin, scorer
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result

VERBMEM_TOKENS = 128
"""Number of tokens that MUSE generates for verbmem."""

KNOWMEM_TOKENS = 32
"""Number of tokens that MUSE generates for knowmem."""

KNOWMEM_STOPS = ("\n\n", "\nQuestion", "Question:")
"""Texts at which MUSE cuts an answer off."""

_SOURCE, _PERCENT = "MUSE, arXiv 2407.06460", (0.0, 100.0)


def muse_rouge(generated: str, gold: str) -> float:
    """Compute the F1 of ROUGE-L without stemming, 0 to 1: MUSE's score for both metrics of memorisation.

    Words are those of rouge-score's own tokenizer, as in MUSE, unless the gold text has letters outside the Latin
    script, all of which that tokenizer would drop.
    """
    return float(scorer(stem=False, ascii_only=is_latin(gold)).score(gold, generated)["rougeL"].fmeasure)


@dataclass(frozen=True, eq=False)
class Memorisation(Result):
    """Hold MUSE's verbmem or knowmem of one model for each item.

    Attributes:
        metric: `"verbmem"` or `"knowmem"`.
        ids: Id of each item.
        groups: Group of each item.
        generated: Text that the model generated.
        gold: Text that it is compared with.
        scores: ROUGE-L F1 of each item, 0 to 1.
    """

    metric: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    generated: tuple[str, ...]
    gold: tuple[str, ...]
    scores: Float[Tensor, " item"]

    def _brief(self) -> str:
        return joined([self.metric, f"{len(self.ids)} items", f"mean {float(self.scores.mean()):.3f}"])

    def value(self, group: str | None = None) -> float:
        """Return the mean score times 100, as MUSE reports it; NaN if the group is empty."""
        return self._mean([group in (None, g) for g in self.groups])

    def value_retain(self) -> float:
        """Return the mean score times 100 of all items outside the forget set; NaN if there are none."""
        return self._mean([g != "forget" for g in self.groups])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each item."""
        return pd.DataFrame(
            {
                "id": self.ids,
                "group": self.groups,
                "generated": self.generated,
                "gold": self.gold,
                self.metric: self.scores.numpy(),
            }
        )

    def _mean(self, chosen: Sequence[bool]) -> float:
        kept = [s for s, keep in zip(self.scores.tolist(), chosen, strict=True) if keep]
        return 100 * sum(kept) / len(kept) if kept else float("nan")


def verbmem(
    model: HookedModel,
    bench: Benchmark,
    *,
    max_new_tokens: int = VERBMEM_TOKENS,
    batch_tokens: int | None = None,
) -> Memorisation:
    """Compute verbatim memorisation: how much of a passage's continuation the model recites, 0 to 100.

    Args:
        model: Hooked model with a tokenizer.
        bench: Benchmark with `verbatim` passages.
        max_new_tokens: Number of tokens to generate. As in MUSE, they are compared with as many ids of the passage, and
            special tokens that the tokenizer adds (BOS) count.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Raises:
        InputError: If the benchmark has no passages, or the model has no tokenizer.
    """
    if not bench.verbatim:
        raise InputError(f"benchmark {bench.name!r} has no `verbatim` passages; verbmem needs them")
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError("verbmem compares texts, but the model has no tokenizer; load it with a tokenizer")
    ids = [tokenizer(q.answer, split_special_tokens=True)["input_ids"][:max_new_tokens] for q in bench.verbatim]
    gold = [tokenizer.decode(list(i), skip_special_tokens=True) for i in ids]
    prompts = [q.prompt for q in bench.verbatim]
    generated = generate_answers(model, prompts, max_new_tokens=max_new_tokens, stop=(), batch_tokens=batch_tokens)
    return _memorisation("verbmem", bench.verbatim, generated, gold)


def knowmem(
    model: HookedModel,
    bench: Benchmark,
    *,
    max_new_tokens: int = KNOWMEM_TOKENS,
    batch_tokens: int | None = None,
) -> Memorisation:
    r"""Compute knowledge memorisation: how well the model answers questions after solved examples, 0 to 100.

    MUSE's questions are prompted as in MUSE, `"Question: …\nAnswer: "` with a blank at the end (see `muse_prompt`).

    Args:
        model: Hooked model with a tokenizer.
        bench: Benchmark whose forget and retain questions are asked, each after the solved examples of its group.
        max_new_tokens: Largest number of tokens to generate.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.
    """
    items = (*bench.forget, *bench.kept)
    generated = generate_answers(
        model,
        [muse_prompt(bench, q) for q in items],
        chat=bench.chat,
        max_new_tokens=max_new_tokens,
        stop=KNOWMEM_STOPS,
        batch_tokens=batch_tokens,
    )
    return _memorisation("knowmem", items, generated, [q.answer for q in items])


def muse_prompt(bench: Benchmark, qa: QA) -> str:
    """Return the prompt of knowmem: the group's solved examples and the question.

    MUSE's prompts end with `"Answer: "`. Ours end before the blank, because answers carry it; it is put back here.
    Prompts of another form stay as they are.
    """
    prompt = bench.few_shot.get(qa.group, "") + qa.prompt
    return f"{prompt} " if prompt.endswith("Answer:") and not bench.chat else prompt


def _memorisation(metric: str, items: Sequence[QA], generated: Sequence[str], gold: Sequence[str]) -> Memorisation:
    return Memorisation(
        metric=metric,
        ids=tuple(q.id for q in items),
        groups=tuple(q.group for q in items),
        generated=tuple(generated),
        gold=tuple(gold),
        scores=torch.tensor([muse_rouge(g, t) for g, t in zip(generated, gold, strict=True)], dtype=torch.double),
    )


def _knowmem(run: BenchmarkRun) -> Memorisation:
    return knowmem(run.model, run.bench, batch_tokens=run.batch_tokens)


@metric("verbmem", source=_SOURCE, better="higher", bounds=_PERCENT, of="benchmark")
def verbmem_of_benchmark(run: BenchmarkRun) -> float:
    """Compute the ROUGE-L F1 of the recited continuation of passages, times 100."""
    return verbmem(run.model, run.bench, batch_tokens=run.batch_tokens).value()


@metric("knowmem_forget", source=_SOURCE, better="higher", bounds=_PERCENT, of="benchmark")
def knowmem_forget(run: BenchmarkRun) -> float:
    """Compute the ROUGE-L F1 of answers about the forget set, times 100."""
    return run.once(_knowmem).value("forget")


@metric("knowmem_retain", source=_SOURCE, better="higher", bounds=_PERCENT, of="benchmark")
def knowmem_retain(run: BenchmarkRun) -> float:
    """Compute the ROUGE-L F1 of answers about the retain set (near and far together), times 100."""
    return run.once(_knowmem).value_retain()
