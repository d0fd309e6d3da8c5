"""Evaluate a model on a benchmark: ask once, compute every metric, and add the scores of the models to compare with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.benchmark import Benchmark, check_unique_ids
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import Answers, answer_all
from unpact_lens.evaluation.judge import Judge
from unpact_lens.evaluation.metrics import METRICS, BenchmarkRun, Metric
from unpact_lens.evaluation.perplexity import TextScores, score_texts
from unpact_lens.evaluation.result import FACT, Scores
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS


@dataclass(frozen=True)
class Measured:
    """Hold what is measured, and what that needs besides a model and a benchmark.

    Attributes:
        metrics: Metrics to compute.
        nli: NLI model of metric `"entailment"`.
        judge: Judge of metric `"judge"`.
        batch_tokens: Largest number of input tokens in one forward pass.

    Raises:
        InputError: If a metric needs an argument that is not given.
    """

    metrics: tuple[Metric, ...]
    nli: str | os.PathLike[str] | None
    judge: Judge | None
    batch_tokens: int

    def __post_init__(self) -> None:
        examples = {"nli": "nli='cross-encoder/nli-deberta-v3-small'", "judge": "judge=ul.evaluation.Judge(url, model)"}
        for metric in self.metrics:
            if metric.needs in examples and getattr(self, metric.needs) is None:
                raise InputError(f"metric {metric.name!r} needs {metric.needs}=; give e.g. {examples[metric.needs]}")

    def of(self, kind: str) -> tuple[Metric, ...]:
        """Return the metrics of one kind: `"answers"`, `"texts"` or `"benchmark"`."""
        return tuple(m for m in self.metrics if m.of == kind)

    def compute(self, metric: Metric, answers: Answers) -> Float[Tensor, " item"]:
        """Compute a metric of answers."""
        more = [getattr(self, metric.needs)] if metric.needs in ("nli", "judge") else []
        values: Tensor = metric.compute(answers, *more)
        return values


def evaluate(
    model: HookedModel,
    bench: Benchmark,
    metrics: Sequence[str] | None = None,
    *,
    before: HookedModel | Scores | None = None,
    reference: HookedModel | Scores | None = None,
    nli: str | os.PathLike[str] | None = None,
    judge: Judge | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Scores:
    """Score a model on every group of a benchmark.

    Args:
        model: Hooked model to score, e.g. an unlearned model.
        bench: Benchmark that says what to ask and how.
        metrics: Names from `metrics()`. If None, those that ask only the benchmark's questions and need nothing else.
            Fact-span match is always included: forgetting and destruction are defined by it.
        before: Original model, or its `Scores`; forgetting F and destruction D are relative to it.
        reference: Retrained model, or its `Scores`, for comparison.
        nli: NLI model of metric `"entailment"`: a local directory or a hub id (see `entailment`).
        judge: Judge of metric `"judge"`.
        batch_tokens: Largest number of input tokens in one forward pass.

    Returns:
        Metrics of each item, with intervals by group, and F and D if `before` is given.

    Raises:
        InputError: If a metric is unknown or needs something that is not given, ids occur twice, or scores given for
            comparison are of another benchmark or lack a metric.
    """
    measured = Measured(_chosen(metrics), nli, judge, batch_tokens)
    if measured.of("benchmark") and isinstance(reference, Scores):
        name = measured.of("benchmark")[0].name
        raise InputError(f"metric {name!r} asks the retrained model itself; give the model as reference=")
    check_unique_ids(bench.all_items())
    compared = Measured(measured.of("answers") + measured.of("texts"), nli, judge, batch_tokens)
    beside = {
        name: other if other is None or isinstance(other, Scores) else _scores(other, bench, compared, None)
        for name, other in (("before", before), ("reference", reference))
    }
    retrained = None if isinstance(reference, Scores) else reference
    return _scores(model, bench, measured, retrained).beside(**beside)


def _scores(model: HookedModel, bench: Benchmark, measured: Measured, reference: HookedModel | None) -> Scores:
    """Score one model by itself; `reference` is used by metrics of the whole benchmark only."""
    answers = answer_all(model, bench.all_items(), bench=bench, batch_tokens=measured.batch_tokens)
    texts = score_texts(model, bench.plain_text.texts) if bench.plain_text and measured.of("texts") else _NO_TEXTS
    run = BenchmarkRun(model, bench, reference, measured.batch_tokens)
    items, per_item = answers.items, measured.of("answers")
    return Scores(
        benchmark=bench.name,
        metrics=tuple(m.name for m in per_item),
        ids=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id for q in items),
        kinds=tuple(q.kind for q in items),
        groups=tuple(q.group for q in items),
        generated=answers.generated,
        values=torch.stack([measured.compute(m, answers) for m in per_item]),
        binary=tuple(m.binary for m in per_item),
        text_nll=texts.nll,
        text_tokens=texts.tokens,
        overall={m.name: float(m.compute(run)) for m in measured.of("benchmark")},
        settings=answers.settings,
    )


_NO_TEXTS = TextScores(torch.zeros(0, dtype=torch.double), torch.zeros(0, dtype=torch.long))


def _chosen(names: Sequence[str] | None) -> tuple[Metric, ...]:
    if isinstance(names, str):
        raise InputError(f"metrics={names!r} is one text; give a list of names, e.g. metrics=[{names!r}]")
    if names is None:
        return tuple(m for m in METRICS.values() if m.default)
    return tuple(METRICS[name] for name in dict.fromkeys([FACT, *names]))
