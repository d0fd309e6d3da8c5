"""Attribution methods side by side: agreement, faithfulness, stability and time on the same prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.attribute import attribute_many
from unpact_lens.attribution.faithfulness import faithfulness
from unpact_lens.attribution.key_tokens import TopK
from unpact_lens.attribution.methods import METHODS
from unpact_lens.attribution.result import Attribution, MethodComparison
from unpact_lens.attribution.similarity import jaccard, spearman
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import encode
from unpact_lens.words import WORD

RANDOM = "random"
"""The row that any method must beat."""


def compare_methods(
    model: Any,
    qas: Sequence[QA],
    methods: Sequence[str] | None = None,
    *,
    k: int = 3,
    units: str = "token",
    target: str = "log_prob",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    chat: bool = False,
    prefill: str = "",
    batch_tokens: int | None = None,
    paraphrases: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> MethodComparison:
    """Run several attribution methods on the same prompts and compare them.

    Args:
        model: a hooked causal model in eval mode.
        qas: questions with gold answers.
        methods: names in `attribution_methods()`; by default all of them, but Shapley values where nothing would stand
            before the answer once all units are gone (no BOS, template or prefill). A row `"random"` is added.
        k: of the overlap of the highest units.
        units: `"token"`, `"word"` or `"sentence"`.
        target: what faithfulness measures: `"log_prob"`, `"prob"` or `"logit"`.
        options: for some methods their own options, e.g. `{"shapley": {"samples": 32}}`.
        chat: as for `attribute_many`.
        prefill: as for `attribute_many`.
        batch_tokens: as for `attribute_many`.
        paraphrases: of each question, how many are attributed for stability, at most.
        seed: of methods that sample, and of the random row.
        progress: show bars on stderr, if that is a terminal.

    Returns:
        One row a method.

    Raises:
        InputError: if there are no questions, a method is unknown or named twice, or `k` is below 1.
    """
    names = tuple(METHODS) if methods is None else tuple(methods)
    _check(qas, names, k, options)
    if not _empty_prompt_is_possible(model, qas, chat, prefill) and "token" not in (options or {}).get("shapley", {}):
        if methods is not None and "shapley" in names:
            raise InputError(
                "shapley removes all units at once, and nothing would stand before the answer; give it a token to put "
                "in their place, options={'shapley': {'token': ' '}}, or leave it out"
            )
        names = tuple(name for name in names if name != "shapley")
    same: dict[str, Any] = {
        "units": units,
        "chat": chat,
        "prefill": prefill,
        "batch_tokens": batch_tokens,
        "progress": progress,
    }
    rephrased = [(i, replace(q, prompt=p)) for i, q in enumerate(qas) for p in q.paraphrases[:paraphrases]]
    scored: list[list[Attribution]] = []
    seconds, stable, stable_top = [], [], []
    for name in names:
        own = dict((options or {}).get(name, {}))
        start = time.perf_counter()
        found = attribute_many(model, qas, method=name, seed=seed, **same, **own)
        seconds.append((time.perf_counter() - start) / len(qas))
        scored.append(found)
        others = attribute_many(model, [q for _, q in rephrased], method=name, seed=seed, **same, **own)
        pairs = [(found[i], other) for (i, _), other in zip(rephrased, others, strict=True)]
        stable.append(_mean([stability(a, b) for a, b in pairs]))
        stable_top.append(_mean([stability_top(a, b, k) for a, b in pairs]))
    if RANDOM not in names:
        names = (*names, RANDOM)
        scored.append(shuffled(scored[0], seed))
        seconds, stable, stable_top = [*seconds, 0.0], [*stable, float("nan")], [*stable_top, float("nan")]
    top = [[a.key_tokens(TopK(k)).indices for a in found] for found in scored]
    return MethodComparison(
        methods=names,
        spearman=_pairwise([[a.scores for a in found] for found in scored], spearman),
        jaccard=_pairwise(top, jaccard),
        k=k,
        faithfulness=tuple(faithfulness(model, f, target=target, batch_tokens=batch_tokens) for f in scored),
        stability=torch.tensor(stable, dtype=torch.float64),
        stability_jaccard=torch.tensor(stable_top, dtype=torch.float64),
        seconds=torch.tensor(seconds, dtype=torch.float64),
        items=len(qas),
        units=units,
    )


def stability(one: Attribution, other: Attribution) -> float:
    """Rank correlation of word contributions between two phrasings, over the words that both have.

    NaN where they share fewer than two words.
    """
    a, b = word_scores(one), word_scores(other)
    shared = [w for w in a if w in b]
    return spearman(torch.tensor([a[w] for w in shared]), torch.tensor([b[w] for w in shared]))


def stability_top(one: Attribution, other: Attribution, k: int) -> float:
    """Jaccard overlap of the k words with the largest contributions, among the words that both phrasings have."""
    a, b = word_scores(one), word_scores(other)
    shared = sorted(w for w in a if w in b)
    best = [sorted(range(len(shared)), key=lambda i: -scores[shared[i]])[:k] for scores in (a, b)]
    return jaccard(*best)


def word_scores(attribution: Attribution) -> dict[str, float]:
    """Contribution of each word of the prompt, in lower case: the sum over its pieces and occurrences."""
    found: dict[str, float] = {}
    for match in WORD.finditer(attribution.prompt):
        start, end = match.span()
        rows = [i for i, (a, b) in enumerate(attribution.spans) if max(a, start) < min(b, end)]
        if rows:
            word = match.group().lower()
            found[word] = found.get(word, 0.0) + float(attribution.scores[rows].sum())
    return found


def shuffled(attributions: Sequence[Attribution], seed: int) -> list[Attribution]:
    """The same prompts with random scores, as a method called `"random"`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for a in attributions:
        scores = torch.rand(len(a.tokens), generator=generator, dtype=torch.float64)
        drawn.append(replace(a, scores=scores, per_answer_token=scores[:, None], method=RANDOM, error=None))
    return drawn


def _pairwise(scored: Sequence[Sequence[Any]], measure: Callable[[Any, Any], float]) -> Float[Tensor, "method method"]:
    """The mean of a measure over the items, for each two methods."""
    rows = [[_mean([measure(a, b) for a, b in zip(x, y, strict=True)]) for y in scored] for x in scored]
    return torch.tensor(rows, dtype=torch.float64)


def _mean(values: Sequence[float]) -> float:
    """The mean over the values that are defined; NaN where none is."""
    return float(torch.tensor(values, dtype=torch.float64).nanmean()) if values else float("nan")


def _empty_prompt_is_possible(model: Any, qas: Sequence[QA], chat: bool, prefill: str) -> bool:
    """Whether something stands before the answer without the prompt."""
    encoded = encode(model, qas[0].prompt, qas[0].answer, chat=chat, prefill=prefill)
    return bool(encoded.head or encoded.tail)


def _check(qas: Sequence[QA], names: Sequence[str], k: int, options: Mapping[str, Mapping[str, Any]] | None) -> None:
    if not qas:
        raise InputError("no questions are given; compare_methods needs at least one")
    if not names:
        raise InputError("no methods are given; leave methods out to compare all")
    for name in (*names, *(options or {})):
        METHODS[name]
    if len(set(names)) < len(names):
        raise InputError(f"methods {list(names)} name one twice; name each once")
    for name in options or {}:
        if name not in names:
            raise InputError(f"options are given for {name!r}, which is not among the methods compared")
    if k < 1:
        raise InputError(f"k={k}; the overlap of the highest units needs at least 1")
