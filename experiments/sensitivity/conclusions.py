"""Draw the conclusions of one choice from the original and the unlearned models."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from experiments.sensitivity.choices import FOCUS, NET_R, RANKING, Choice
from unpact_lens.attribution import Attribution, KeyRule, attribute_many
from unpact_lens.attribution.similarity import jaccard
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError
from unpact_lens.evaluation.agreement import ANSWER_METRICS
from unpact_lens.evaluation.answers import ask, fact_right, fact_tokens, prefill_for
from unpact_lens.evaluation.result import FACT
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import encode
from unpact_lens.recovery import Probing
from unpact_lens.recovery.plan import plain_sheet
from unpact_lens.recovery.probes.registry import Scene
from unpact_lens.recovery.prompts import write_sheet
from unpact_lens.recovery.result import RANDOM_WORDS
from unpact_lens.results import Result
from unpact_lens.stats.bootstrap import quantiles, resampled_means
from unpact_lens.stats.estimate import Difference
from unpact_lens.stats.paired import paired_difference

T = TypeVar("T")

Numbers = tuple[int, float, float, float]
"""Number of facts, value and 95% CI of a conclusion."""


@dataclass(frozen=True, eq=False)
class Conclusions(Result):
    """Hold the conclusions of one choice.

    Attributes:
        rows: `dimension, choice, conclusion, method, n, value, low, high`, one per conclusion and method.
    """

    figure: ClassVar[str | None] = None

    rows: tuple[dict[str, Any], ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per conclusion and method."""
        return pd.DataFrame(list(self.rows))


@dataclass(frozen=True)
class Evidence:
    """Hold the models and facts from which conclusions are drawn.

    Attributes:
        before: Original model.
        afters: For each method, the unlearned model of each seed; all methods have the same number of seeds.
        bench: Benchmark whose forget facts are asked, plainly and with emphasis.
        forget: Forget facts whose contributions are compared.
        retain: Retain facts whose contributions are compared.
        batch_tokens: Largest number of input tokens in one forward pass.
        seed: Random seed of the random words.
        memo: Answers and contributions that were computed before. Choices share most of them. The models must stay
            alive, because entries are found by `id(model)`.
    """

    before: HookedModel
    afters: Mapping[str, Sequence[HookedModel]]
    bench: Benchmark
    forget: Sequence[QA]
    retain: Sequence[QA]
    batch_tokens: int = 4096
    seed: int = 0
    memo: dict[Hashable, Any] = field(default_factory=dict)

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what was computed under this key, or compute it."""
        if key not in self.memo:
            self.memo[key] = compute()
        found: T = self.memo[key]
        return found

    def attributions(
        self, model: HookedModel, items: Sequence[QA], choice: Choice, *, own: bool = False
    ) -> list[Attribution]:
        """Compute contributions by the method and towards the tokens of a choice.

        Args:
            model: Model to attribute.
            items: Facts to attribute.
            choice: The choice.
            own: Attribute the model's own answers instead of the gold answers.
        """
        bench = self.bench
        found = self.remember(
            ("contributions", id(model), choice.attribution, own, *(q.prompt for q in items)),
            lambda: attribute_many(
                model, items, method=choice.attribution, chat=bench.chat, prefill=bench.prefill, progress=False,
                max_new_tokens=bench.max_new_tokens, answer_free=own,
            ),
        )  # fmt: skip
        if not choice.fact_only:
            return found
        rows = [encode(model, q.prompt, q.answer, chat=bench.chat, prefill=prefill_for(bench, q)) for q in items]
        spans = [fact_tokens(model, row, q) for row, q in zip(rows, items, strict=True)]
        parts = [a.per_answer_token[:, start:end] for a, (start, end) in zip(found, spans, strict=True)]
        return [replace(a, scores=part.mean(-1)) for a, part in zip(found, parts, strict=True)]

    def said(self, model: HookedModel, prompts: Sequence[str], items: Sequence[QA]) -> list[str]:
        """Generate the answers to prompts about some facts."""
        prefixes = [prefill_for(self.bench, q) for q in items]
        return self.remember(
            ("said", id(model), *prompts),
            partial(ask, model, prompts, prefixes, bench=self.bench, batch_tokens=self.batch_tokens),
        )


def conclusions(choice: Choice, evidence: Evidence) -> Conclusions:
    """Draw the conclusions that a choice can change.

    Args:
        choice: The choice.
        evidence: Models and facts; what is computed is remembered in it for the next choice.

    Raises:
        InputError: If the template takes no words, the metric is unknown, or a fact lacks that paraphrase.
    """
    if not EMPHASIS[choice.template].needs_words:
        raise InputError(f"template {choice.template!r} takes no words, so random words cannot be its control")
    if choice.metric != FACT:
        ANSWER_METRICS[choice.metric]
    found: list[tuple[str, str, Numbers]] = []
    if {NET_R, RANKING} & set(choice.conclusions):
        nets, ranking = recovery_and_ranking(choice, evidence)
        found += [(NET_R, method, _numbers(d)) for method, d in nets.items()]
        if RANKING in choice.conclusions:
            found += [(RANKING, methods, _numbers(d)) for methods, d in ranking.items()]
    if FOCUS in choice.conclusions:
        found += [(FOCUS, method, numbers) for method, numbers in focus_contrast(choice, evidence).items()]
    names = ("conclusion", "method", "n", "value", "low", "high")
    same = {"dimension": choice.dimension, "choice": choice.name}
    rows = ((conclusion, method, *numbers) for conclusion, method, numbers in found)
    return Conclusions(tuple({**same, **dict(zip(names, row, strict=True))} for row in rows))


def asked_as(items: Sequence[QA], choice: Choice) -> list[QA]:
    """Return the facts in the phrasing of a choice.

    Raises:
        InputError: If a fact has no such paraphrase.
    """
    if choice.phrasing is None:
        return list(items)
    short = next((q for q in items if len(q.paraphrases) <= choice.phrasing), None)
    if short is not None:
        raise InputError(f"phrasing={choice.phrasing}, but {short.id or short.prompt!r} has {len(short.paraphrases)}")
    return [replace(q, prompt=q.paraphrases[choice.phrasing]) for q in items]


def judged(metric: str, texts: Sequence[str], items: Sequence[QA]) -> Bool[Tensor, " item"]:
    """Judge which answers are right by a metric."""
    if metric == FACT:
        return torch.tensor([fact_right(t, q) for t, q in zip(texts, items, strict=True)], dtype=torch.bool)
    entry = ANSWER_METRICS[metric]
    return entry.score(list(texts), [q.answer for q in items]) >= entry.threshold


def recovery_and_ranking(choice: Choice, evidence: Evidence) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """Compute net R against random words by method, and the difference of F by pair of methods."""
    bench, items = evidence.bench, asked_as(evidence.bench.forget, choice)
    keyed = evidence.attributions(evidence.before, items, choice, own=choice.answer_free)
    keys = [a.key_tokens(choice.rule).words for a in keyed]
    rows = [choice.template, f"{RANDOM_WORDS}:{choice.template}"]
    probing = Probing(templates=(choice.template,), headline=choice.template, seed=evidence.seed, probes=())
    sheet = write_sheet(Scene(probing, bench, tuple(items), tuple(keys))).only(rows)
    given_away = {**plain_sheet(items, bench).leaking(), **sheet.leaking()}
    prompts = [[q.prompt for q in items], *sheet.prompts]
    usable = sheet.asked.all(0) & ~torch.tensor([q.id in given_away for q in items], dtype=torch.bool)

    def answers(model: HookedModel) -> Bool[Tensor, "row item"]:
        right = torch.zeros(len(prompts), len(items), dtype=torch.bool)
        for row, texts in enumerate(prompts):
            some = [i for i, text in enumerate(texts) if text]
            asked = [items[i] for i in some]
            said = evidence.said(model, [texts[i] for i in some], asked)
            right[row, some] = judged(choice.metric, said, asked)
        return right

    first, subjects = answers(evidence.before), [q.subject or q.id for q in items]
    after = {  # [seed, row, item] by method
        method: torch.stack([answers(model) for model in models]) for method, models in evidence.afters.items()
    }
    kept = first.all(0) & usable
    nets = {
        m: paired_difference(right[:, 1], right[:, 2], subjects, among=kept & ~right[:, 0])
        for m, right in after.items()
    }
    known = first[0].expand(next(iter(after.values())).shape[0], -1)  # [seed, item]
    ranking = {
        f"{one} - {two}": paired_difference(~after[one][:, 0], ~after[two][:, 0], subjects, among=known)
        for one, two in itertools.combinations(after, 2)
    }
    return nets, ranking


def focus_contrast(choice: Choice, evidence: Evidence) -> dict[str, Numbers]:
    """Compute the KeyToken overlap on forget facts minus that on retain facts, by method."""
    groups = (asked_as(evidence.forget, choice), asked_as(evidence.retain, choice))
    first = [evidence.attributions(evidence.before, items, choice) for items in groups]
    subjects = [[q.subject or q.id for q in items] for items in groups]
    found = {}
    for method, models in evidence.afters.items():
        overlaps = []  # [seed, item] by group
        for items, was in zip(groups, first, strict=True):
            found_by_seed = [evidence.attributions(model, items, choice) for model in models]
            rows = [_overlaps(was, now, choice.rule) for now in found_by_seed]
            overlaps.append(torch.tensor(rows, dtype=torch.float64))
        means = [float(o.nanmean(0).nanmean()) for o in overlaps]
        drawn = [resampled_means(o, s, seed=i) for i, (o, s) in enumerate(zip(overlaps, subjects, strict=True))]
        found[method] = (len(groups[0]), means[0] - means[1], *quantiles(drawn[0] - drawn[1]))
    return found


def _numbers(d: Difference) -> Numbers:
    low, high = d.interval(d.n)
    return d.n, d.value, low, high


def _overlaps(was: Sequence[Attribution], now: Sequence[Attribution], rule: KeyRule) -> list[float]:
    """Compute the Jaccard overlap of the KeyTokens of each fact."""
    pairs = zip(was, now, strict=True)
    return [jaccard(b.key_tokens(rule).indices, a.key_tokens(rule).indices) for b, a in pairs]
