"""Which conclusions survive another KeyToken rule, attribution method, answer metric or wording?

Three conclusions are drawn anew for each choice, and compared with those of the baseline by sign and significance:

- *net R*: emphasis on the KeyTokens brings back more facts than the same emphasis on random words, by method;
- *focus*: the KeyTokens overlap less, before and after, on forget facts than on retain facts, by method;
- *F ranking*: of two methods, which one forgot more, by pair of methods.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from experiments.focus.focus_study import facts_looked_at, spread, unlearned_model
from unpact_lens.attribution import Attribution, KeyRule, Share, Threshold, TopK, attribute_many
from unpact_lens.attribution.similarity import jaccard
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS, HEADLINE
from unpact_lens.errors import InputError
from unpact_lens.evaluation.agreement import ANSWER_METRICS
from unpact_lens.evaluation.answers import ask, fact_right, fact_tokens, prefill_for
from unpact_lens.evaluation.result import FACT
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.recovery.controls import fillers_of
from unpact_lens.recovery.result import RANDOM_WORDS
from unpact_lens.recovery.sheet import plain_sheet, write_sheet
from unpact_lens.results import Result, storable
from unpact_lens.stats.bootstrap import paired_difference, quantiles, resampled_means
from unpact_lens.stats.estimate import Difference
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.run_study import Workspace, arithmetic, step_bar
from unpact_lens.words import ENGLISH_FUNCTION_WORDS

NET_R, FOCUS, RANKING = "net R", "focus", "F ranking"
"""The conclusions."""

T = TypeVar("T")

BASELINE_NAME = "baseline"
"""The dimension of the choice that all others are compared with."""

Afters = Mapping[str, Sequence[Any]]
"""For each method, the unlearned model of each seed."""


Memo = dict[Hashable, Any]
"""What models said and contributions already taken: choices share most of them."""


@storable
@dataclass(frozen=True)
class Choice:
    """One way to draw the conclusions; each default is the baseline's.

    Attributes:
        dimension: what is varied.
        name: to what.
        rule: which tokens are key.
        attribution: method by which contributions are taken.
        answer_free: KeyTokens of emphasis are those of the model's own answer.
        fact_only: contributions to the answer's fact tokens only, not to all of its tokens.
        template: wording of the emphasis.
        metric: by which an answer counts as right: `"fact_span"`, or one of `ANSWER_METRICS` at its threshold.
        phrasing: which of the held-out phrasings the facts are asked in; None for the headline phrasing.
    """

    dimension: str
    name: str
    rule: KeyRule = field(default_factory=TopK)
    attribution: str = "leave_one_out"
    answer_free: bool = False
    fact_only: bool = False
    template: str = HEADLINE
    metric: str = FACT
    phrasing: int | None = None

    @property
    def conclusions(self) -> tuple[str, ...]:
        """What this choice can change."""
        contributions = (self.rule, self.attribution, self.fact_only) != (TopK(3), "leave_one_out", False)
        general = self.dimension == BASELINE_NAME or self.phrasing is not None
        found = {NET_R: True, FOCUS: general or contributions, RANKING: general or self.metric != FACT}
        return tuple(name for name, drawn in found.items() if drawn)


BASELINE = Choice(BASELINE_NAME, "TopK(3), leave-one-out, fact span, focus_list")

CHOICES: tuple[Choice, ...] = (
    BASELINE,
    Choice("KeyToken rule", "TopK(1)", rule=TopK(1)),
    Choice("KeyToken rule", "TopK(5)", rule=TopK(5)),
    Choice("KeyToken rule", "Share(0.8)", rule=Share(0.8)),
    Choice("KeyToken rule", "Threshold(0.1)", rule=Threshold(0.1)),
    Choice("KeyToken rule", "TopK(3), whole words", rule=TopK(3, words=True)),
    Choice(
        "KeyToken rule", "TopK(3), content words",
        rule=TopK(3, words=True, stopwords=ENGLISH_FUNCTION_WORDS, skip_punctuation=True),
    ),
    Choice("KeyTokens towards", "the model's own answer", answer_free=True),
    Choice("KeyTokens towards", "the fact's tokens only", fact_only=True),
    Choice("attribution", "knockout", attribution="knockout"),
    Choice("attribution", "grad_x_input", attribution="grad_x_input"),
    Choice("attribution", "attention_rollout", attribution="attention_rollout"),
    Choice("metric", "exact match", metric="exact_match"),
    Choice("metric", "ROUGE-L F1 >= .5", metric="rouge_l"),
    Choice("metric", "meaning, cosine >= .8", metric="semantic_similarity"),
    Choice("emphasis", "quotes", template="quotes"),
    Choice("emphasis", "doubled", template="doubled"),
    Choice("emphasis", "reminder", template="reminder"),
    Choice("question", "held-out phrasing 1", phrasing=0),
    Choice("question", "held-out phrasing 2", phrasing=1),
)  # fmt: skip
"""Fixed before the run, the baseline first."""


@dataclass(frozen=True, eq=False)
class Conclusions(Result):
    """What one choice concludes.

    Attributes:
        rows: `dimension, choice, conclusion, method, n, value, low, high`, one for each conclusion and method.
    """

    figure: ClassVar[str | None] = None

    rows: tuple[dict[str, Any], ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a conclusion and method."""
        return pd.DataFrame(list(self.rows))


def conclusions(
    choice: Choice,
    before: Any,
    afters: Afters,
    bench: Benchmark,
    *,
    forget: Sequence[QA],
    retain: Sequence[QA],
    batch_tokens: int = 4096,
    seed: int = 0,
    memo: Memo | None = None,
) -> Conclusions:
    """Draw the conclusions that a choice can change.

    Args:
        choice: the way.
        before: the model before unlearning.
        afters: the unlearned models, the same number of seeds for each method.
        bench: its forget facts are asked, plainly and with emphasis.
        forget: forget facts whose contributions are compared.
        retain: retain facts whose contributions are compared.
        batch_tokens: bound on the tokens of one batch.
        seed: of the random words.
        memo: filled with what was asked of these models, and read by the next choice; the models must stay alive.

    Raises:
        InputError: if the template takes no words, the metric is unknown, or a fact lacks that phrasing.
    """
    if not EMPHASIS[choice.template].needs_words:
        raise InputError(f"template {choice.template!r} takes no words, so random words cannot stand beside it")
    if choice.metric != FACT:
        ANSWER_METRICS[choice.metric]
    memo = {} if memo is None else memo
    found: list[tuple[str, str, int, float, float, float]] = []
    if {NET_R, RANKING} & set(choice.conclusions):
        items = asked_as(bench.forget, choice)
        nets, ranking = _asked(choice, before, afters, bench, items, batch_tokens, seed, memo)
        found += [(NET_R, m, *_numbers(d)) for m, d in nets.items()]
        if RANKING in choice.conclusions:
            found += [(RANKING, pair, *_numbers(d)) for pair, d in ranking.items()]
    if FOCUS in choice.conclusions:
        groups = (asked_as(forget, choice), asked_as(retain, choice))
        found += [(FOCUS, m, *numbers) for m, numbers in _focus(choice, before, afters, bench, groups, memo)]
    names = ("conclusion", "method", "n", "value", "low", "high")
    same = {"dimension": choice.dimension, "choice": choice.name}
    return Conclusions(tuple({**same, **dict(zip(names, row, strict=True))} for row in found))


def asked_as(items: Sequence[QA], choice: Choice) -> list[QA]:
    """The facts in the phrasing of a choice.

    Raises:
        InputError: if a fact has no such phrasing.
    """
    if choice.phrasing is None:
        return list(items)
    short = next((q for q in items if len(q.paraphrases) <= choice.phrasing), None)
    if short is not None:
        raise InputError(f"phrasing={choice.phrasing}, but {short.id or short.prompt!r} has {len(short.paraphrases)}")
    return [replace(q, prompt=q.paraphrases[choice.phrasing]) for q in items]


def judged(metric: str, texts: Sequence[str], items: Sequence[QA]) -> Bool[Tensor, " item"]:
    """Which answers a metric counts as right."""
    if metric == FACT:
        return torch.tensor([fact_right(t, q) for t, q in zip(texts, items, strict=True)], dtype=torch.bool)
    entry = ANSWER_METRICS[metric]
    return entry.score(list(texts), [q.answer for q in items]) >= entry.threshold


def attributions_of(
    model: Any, items: Sequence[QA], choice: Choice, bench: Benchmark, *, own: bool, memo: Memo
) -> list[Attribution]:
    """Contributions by the method and towards the tokens of a choice; `own`: towards the model's own answers."""
    found = _remember(
        memo,
        ("contributions", id(model), choice.attribution, own, *(q.prompt for q in items)),
        lambda: attribute_many(
            model, items, method=choice.attribution, chat=bench.chat, prefill=bench.prefill, progress=False,
            max_new_tokens=bench.max_new_tokens, answer_free=own,
        ),
    )  # fmt: skip
    if not choice.fact_only:
        return found
    spans = [fact_tokens(model, q) for q in items]
    parts = [a.per_answer_token[:, start:end] for a, (start, end) in zip(found, spans, strict=True)]
    return [replace(a, scores=part.mean(-1)) for a, part in zip(found, parts, strict=True)]


def _remember(memo: Memo, key: Hashable, compute: Callable[[], T]) -> T:
    if key not in memo:
        memo[key] = compute()
    found: T = memo[key]
    return found


def _asked(
    choice: Choice,
    before: Any,
    afters: Afters,
    bench: Benchmark,
    items: Sequence[QA],
    batch_tokens: int,
    seed: int,
    memo: Memo,
) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """Net R against random words of each method, and of each pair of methods the difference of F."""
    keyed = attributions_of(before, items, choice, bench, own=choice.answer_free, memo=memo)
    keys = [a.key_tokens(choice.rule).words for a in keyed]
    rows = [choice.template, f"{RANDOM_WORDS}:{choice.template}"]
    sheet = write_sheet(
        items, keys, bench, templates=(choice.template,), headline=choice.template, fillers=fillers_of(bench),
        seed=seed, prefill=False,
    ).only(rows)  # fmt: skip
    given_away = {**plain_sheet(items, bench).leaking(), **sheet.leaking()}
    prompts = [[q.prompt for q in items], *sheet.prompts]
    usable = sheet.asked.all(0) & ~torch.tensor([q.id in given_away for q in items], dtype=torch.bool)

    def answers(model: Any) -> Bool[Tensor, "row item"]:
        right = torch.zeros(len(prompts), len(items), dtype=torch.bool)
        for row, texts in enumerate(prompts):
            some = [i for i, text in enumerate(texts) if text]
            questions, openings = [texts[i] for i in some], [prefill_for(bench, items[i]) for i in some]
            said = _remember(
                memo,
                ("said", id(model), *questions),
                partial(ask, model, questions, openings, bench=bench, batch_tokens=batch_tokens),
            )
            right[row, some] = judged(choice.metric, said, [items[i] for i in some])
        return right

    first, subjects = answers(before), [q.subject or q.id for q in items]
    after = {method: torch.stack([answers(model) for model in models]) for method, models in afters.items()}
    kept = first.all(0) & usable
    nets = {
        m: paired_difference(right[:, 1], right[:, 2], subjects, among=kept & ~right[:, 0])
        for m, right in after.items()
    }
    known = first[0].expand(next(iter(after.values())).shape[0], -1)
    ranking = {
        f"{one} - {two}": paired_difference(~after[one][:, 0], ~after[two][:, 0], subjects, among=known)
        for one, two in itertools.combinations(after, 2)
    }
    return nets, ranking


def _numbers(d: Difference) -> tuple[int, float, float, float]:
    low, high = d.interval(d.n)
    return d.n, d.value, low, high


def _focus(
    choice: Choice,
    before: Any,
    afters: Afters,
    bench: Benchmark,
    groups: tuple[Sequence[QA], Sequence[QA]],
    memo: Memo,
) -> Iterator[tuple[str, tuple[int, float, float, float]]]:
    """KeyToken overlap on forget facts minus that on retain facts, of each method."""
    first = [attributions_of(before, part, choice, bench, own=False, memo=memo) for part in groups]
    subjects = [[q.subject or q.id for q in part] for part in groups]
    for method, models in afters.items():
        overlaps = []
        for items, was in zip(groups, first, strict=True):
            looks = [attributions_of(model, items, choice, bench, own=False, memo=memo) for model in models]
            overlaps.append(torch.tensor([_overlaps(was, now, choice.rule) for now in looks], dtype=torch.float64))
        means = [float(o.nanmean(0).nanmean()) for o in overlaps]
        drawn = [resampled_means(o, s, seed=i) for i, (o, s) in enumerate(zip(overlaps, subjects, strict=True))]
        yield method, (len(groups[0]), means[0] - means[1], *quantiles(drawn[0] - drawn[1]))


def _overlaps(was: Sequence[Attribution], now: Sequence[Attribution], rule: KeyRule) -> list[float]:
    pairs = zip(was, now, strict=True)
    return [jaccard(b.key_tokens(rule).indices, a.key_tokens(rule).indices) for b, a in pairs]


def sensitivity_study(
    config: StudyConfig,
    out: str | os.PathLike[str],
    *,
    models: str | os.PathLike[str] | None = None,
    choices: Sequence[Choice] = CHOICES,
    track_every: int = 3,
    progress: bool = True,
) -> pd.DataFrame:
    """Every conclusion under every choice; what is finished is not run again.

    Args:
        config: whose methods are unlearned, and which phrasings are held out.
        out: directory of the finished choices.
        models: directory of `focus_study`, where the unlearned models of the same configuration stand; None for `out`.
        choices: the baseline first.
        track_every: as given to that study.
        progress: say on stderr what is being done.

    Returns:
        The rows of `Conclusions`.

    Raises:
        InputError: as `conclusions`.
    """
    with arithmetic(config), step_bar(config, progress) as step:
        space = Workspace(config, Path(models or out), step)
        groups = facts_looked_at(space)
        afters = {
            m.name: [
                unlearned_model(space, m, seed, track=groups["forget"], track_every=track_every).model
                for seed in config.seeds
            ]
            for m in config.methods
        }
        weights = {m: [model_hash(model) for model in found] for m, found in afters.items()}
        kept = Workspace(config, Path(out), step)
        found, memo = [], Memo()
        for number, choice in enumerate(choices):

            def run(choice: Choice = choice) -> Conclusions:
                step(f"{choice.dimension}: {choice.name}")
                return conclusions(
                    choice, space.model, afters, space.bench, forget=groups["forget"],
                    retain=spread(space.bench.retain, config.contributions.retain), batch_tokens=config.batch_tokens,
                    memo=memo,
                )  # fmt: skip

            part = space.fingerprint("choice", asdict(space.bench), asdict(choice), repr(choice.rule), weights)
            found.append(kept.kept(f"choices/{number:02d}", part, run).to_frame())
        return pd.concat(found, ignore_index=True)
