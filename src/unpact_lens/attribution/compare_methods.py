"""Compare attribution methods on the same prompts: agreement, faithfulness, stability and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.attribution.attribute_many import attribute_many
from unpact_lens.attribution.faithfulness import Faithfulness, faithfulness
from unpact_lens.attribution.key_tokens import TopK
from unpact_lens.attribution.methods import METHODS, method_names
from unpact_lens.attribution.result import Attribution
from unpact_lens.attribution.similarity import jaccard, spearman
from unpact_lens.data.as_facts import FactSource, as_facts
from unpact_lens.data.benchmark import QA
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result
from unpact_lens.words import WORD

if TYPE_CHECKING:
    import pandas as pd

RANDOM = "random"
"""Name of the random ranking, the baseline that each method is compared with."""

T = TypeVar("T")
Options = Mapping[str, Mapping[str, Any]]
"""Own options of some methods, by the method's name."""


@dataclass(frozen=True, eq=False)
class MethodComparison(Result):
    """Hold a comparison of attribution methods on the same prompts.

    Attributes:
        methods: Names of the methods. `"random"` is the baseline, which ranks units at random.
        spearman: Mean rank correlation of the scores, for each pair of methods.
        jaccard: Mean overlap of the k highest units, for each pair of methods.
        k: Number of units of `jaccard`.
        faithfulness: One result for each method, in their order.
        stability: Mean rank correlation of word scores between a prompt and its paraphrases, over their shared words,
            for each method; NaN without paraphrases.
        stability_jaccard: Overlap of the k highest words, averaged as `stability`.
        seconds: Wall time of each method for one prompt.
        items: Number of prompts.
        units: How the prompts were cut.
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

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.methods)} methods",
                f"{self.items} prompts",
                f"Spearman from {float(self.spearman.min()):.2f}",
                ", ".join(self.methods),
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each method: agreement with the first, faithfulness, stability, time."""
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


@dataclass(frozen=True)
class Trial:
    """Hold what one method gave.

    Attributes:
        method: Name of the method.
        found: One attribution for each prompt.
        seconds: Wall time for one prompt.
        stability: Mean rank correlation with the paraphrases.
        stability_top: Mean overlap of the highest words with the paraphrases.
    """

    method: str
    found: list[Attribution]
    seconds: float = 0.0
    stability: float = float("nan")
    stability_top: float = float("nan")


def compare_methods(
    model: HookedModel,
    qas: FactSource,
    methods: Sequence[str] | None = None,
    *,
    k: int = 3,
    units: str = "token",
    target: str = "log_prob",
    options: Options | None = None,
    paraphrases: int = 2,
    seed: int = 0,
    progress: bool = True,
    **asking: Unpack[AskingOptions],
) -> MethodComparison:
    """Run several attribution methods on the same prompts and compare them.

    Args:
        model: Hooked causal model in eval mode.
        qas: Questions with gold answers, in any form that `from_pairs` reads.
        methods: Names in `attribution_methods()`. By default, all of them. Shapley values are then omitted if nothing
            would remain before the answer without the prompt (no BOS, template or answer prefix). A row `"random"` is
            added.
        k: Number of highest units whose overlap is measured.
        units: `"token"`, `"word"` or `"sentence"`.
        target: Target of faithfulness: `"log_prob"`, `"prob"` or `"logit"`.
        options: Own options of some methods, e.g. `{"shapley": {"samples": 32}}`.
        paraphrases: Largest number of paraphrases of each question that are attributed for stability.
        seed: Random seed of methods that sample, and of the random row.
        progress: Show progress bars on stderr, if stderr is a terminal.
        asking: Options of `AskingOptions`. By default, `batch_tokens` is set from the free memory.

    Returns:
        One row for each method.

    Raises:
        InputError: If there are no questions, a method is unknown or given twice, or `k` is below 1.
    """
    qas = as_facts(qas, "qas", chat=asking.get("chat", False))
    own = options or {}
    names = method_names() if methods is None else tuple(methods)
    _check(qas, names, k, own)
    if not _empty_prompt_is_possible(model, qas, asking) and "token" not in own.get("shapley", {}):
        if methods is not None and "shapley" in names:
            raise InputError(
                "shapley removes all units at once, and nothing would remain before the answer; give a token that "
                "replaces them, options={'shapley': {'token': ' '}}, or omit shapley"
            )
        names = tuple(name for name in names if name != "shapley")
    rephrased = [(i, replace(q, prompt=p)) for i, q in enumerate(qas) for p in q.paraphrases[:paraphrases]]
    same: dict[str, Any] = {"units": units, "seed": seed, "progress": progress, **asking}
    trials = []
    for name in names:
        given = {"method": name, **same, **own.get(name, {})}
        start = time.perf_counter()
        found = attribute_many(model, qas, **given)
        seconds = (time.perf_counter() - start) / len(qas)
        others = attribute_many(model, [q for _, q in rephrased], **given)
        pairs = [(found[i], other) for (i, _), other in zip(rephrased, others, strict=True)]
        stable, stable_top = (
            _mean([stability(a, b) for a, b in pairs]),
            _mean([stability_top(a, b, k) for a, b in pairs]),
        )
        trials.append(Trial(name, found, seconds, stable, stable_top))
    if RANDOM not in names:
        trials.append(Trial(RANDOM, shuffled(trials[0].found, seed)))
    budget = asking.get("batch_tokens")
    top = [[a.key_tokens(TopK(k)).indices for a in t.found] for t in trials]
    return MethodComparison(
        methods=tuple(t.method for t in trials),
        spearman=_pairwise([[a.scores for a in t.found] for t in trials], spearman),
        jaccard=_pairwise(top, jaccard),
        k=k,
        faithfulness=tuple(faithfulness(model, t.found, target=target, batch_tokens=budget) for t in trials),
        stability=torch.tensor([t.stability for t in trials], dtype=torch.float64),
        stability_jaccard=torch.tensor([t.stability_top for t in trials], dtype=torch.float64),
        seconds=torch.tensor([t.seconds for t in trials], dtype=torch.float64),
        items=len(qas),
        units=units,
    )


def stability(one: Attribution, other: Attribution) -> float:
    """Compute the rank correlation of word contributions between two wordings, over their shared words.

    NaN if they share fewer than two words.
    """
    a, b = word_scores(one), word_scores(other)
    shared = [w for w in a if w in b]
    return spearman(torch.tensor([a[w] for w in shared]), torch.tensor([b[w] for w in shared]))


def stability_top(one: Attribution, other: Attribution, k: int) -> float:
    """Compute the Jaccard overlap of the k words with the largest contributions, among the words of both wordings."""
    a, b = word_scores(one), word_scores(other)
    shared = sorted(w for w in a if w in b)
    best = [sorted(range(len(shared)), key=lambda i: -scores[shared[i]])[:k] for scores in (a, b)]
    return jaccard(*best)


def word_scores(attribution: Attribution) -> dict[str, float]:
    """Sum the contributions of each word of the prompt, in lower case, over its pieces and occurrences."""
    found: dict[str, float] = {}
    for match in WORD.finditer(attribution.prompt):
        start, end = match.span()
        rows = [i for i, (a, b) in enumerate(attribution.spans) if max(a, start) < min(b, end)]
        if rows:
            word = match.group().lower()
            found[word] = found.get(word, 0.0) + float(attribution.scores[rows].sum())
    return found


def shuffled(attributions: Sequence[Attribution], seed: int) -> list[Attribution]:
    """Draw random scores for the same prompts, as a method called `"random"`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for a in attributions:
        scores = torch.rand(len(a.tokens), generator=generator, dtype=torch.float64)
        drawn.append(replace(a, scores=scores, per_answer_token=scores[:, None], method=RANDOM, error=None))
    return drawn


def _pairwise(scored: Sequence[Sequence[T]], measure: Callable[[T, T], float]) -> Float[Tensor, "method method"]:
    """Average a measure over the items, for each pair of methods."""
    rows = [[_mean([measure(a, b) for a, b in zip(x, y, strict=True)]) for y in scored] for x in scored]
    return torch.tensor(rows, dtype=torch.float64)


def _mean(values: Sequence[float]) -> float:
    """Average the defined values; NaN if there are none."""
    return float(torch.tensor(values, dtype=torch.float64).nanmean()) if values else float("nan")


def _empty_prompt_is_possible(model: HookedModel, qas: Sequence[QA], asking: AskingOptions) -> bool:
    """Return whether some context remains before the answer without the prompt."""
    asked = Asking(chat=asking.get("chat", False), prefill=asking.get("prefill", ""))
    encoded = asked.encode(model, qas[0].prompt, qas[0].answer)
    return bool(encoded.head or encoded.tail)


def _check(qas: Sequence[QA], names: Sequence[str], k: int, options: Options) -> None:
    """Refuse an empty comparison, unknown or repeated methods, and options of other methods."""
    if not qas:
        raise InputError("no questions are given; compare_methods needs at least one")
    if not names:
        raise InputError("no methods are given; omit methods to compare all")
    for name in (*names, *options):
        METHODS[name]
    if len(set(names)) < len(names):
        raise InputError(f"methods {list(names)} name one twice; name each once")
    for name in options:
        if name not in names:
            raise InputError(f"options are given for {name!r}, which is not among the compared methods")
    if k < 1:
        raise InputError(f"k={k}; the overlap of the highest units needs at least 1")
