"""Evaluate a model on a benchmark: ask once, compute every metric, and add the scores of the models to compare with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.as_facts import FactSource, as_benchmark
from unpact_lens.data.benchmark import Benchmark, check_unique_ids
from unpact_lens.data.splits import TRAINED, UNSEEN
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import Answers, answer_all, with_room
from unpact_lens.evaluation.judge import Judge
from unpact_lens.evaluation.metrics import METRICS, BenchmarkRun, Metric
from unpact_lens.evaluation.perplexity import TextScores, score_texts
from unpact_lens.evaluation.result import FACT, Scores
from unpact_lens.models.hooked import HookedModel


@dataclass(frozen=True)
class Measured:
    """Hold what is measured, and what that needs besides a model and a benchmark.

    Attributes:
        metrics: Metrics to compute.
        nli: NLI model of metric `"entailment"`.
        judge: Judge of metric `"judge"`.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Raises:
        InputError: If a metric needs an argument that is not given.
    """

    metrics: tuple[Metric, ...]
    nli: str | os.PathLike[str] | None
    judge: Judge | None
    batch_tokens: int | None

    def __post_init__(self) -> None:
        examples = {"nli": "nli='cross-encoder/nli-deberta-v3-small'", "judge": "judge=ul.evaluation.Judge(url, model)"}
        for metric in self.metrics:
            if metric.needs in examples and getattr(self, metric.needs) is None:
                raise InputError(f"metric {metric.name!r} needs {metric.needs}=; give e.g. {examples[metric.needs]}")

    def require_original(self, before: HookedModel | Scores | None) -> None:
        """Check that the original model itself is given where a metric compares with it.

        Raises:
            InputError: If it is not.
        """
        for metric in self.metrics:
            if metric.needs == "before" and (before is None or isinstance(before, Scores)):
                raise InputError(f"metric {metric.name!r} compares with the original model; give the model as before=…")

    def of(self, kind: str) -> tuple[Metric, ...]:
        """Return the metrics of one kind: `"answers"`, `"texts"` or `"benchmark"`."""
        return tuple(m for m in self.metrics if m.of == kind)

    def compute(self, metric: Metric, answers: Answers, original: Answers | None) -> Float[Tensor, " item"]:
        """Compute a metric of answers; `original` are those of the original model, or None without one."""
        known = {"nli": self.nli, "judge": self.judge, "before": original}
        more = [known[metric.needs]] if metric.needs in known else []
        values: Tensor = metric.compute(answers, *more)
        return values


def evaluate(
    model: HookedModel,
    bench: FactSource,
    metrics: Sequence[str] | None = None,
    *,
    before: HookedModel | Scores | None = None,
    reference: HookedModel | Scores | None = None,
    nli: str | os.PathLike[str] | None = None,
    judge: Judge | None = None,
    batch_tokens: int | None = None,
) -> Scores:
    """Score a model on every group of a benchmark.

    Of the retain facts, the trained and the unseen ones are asked. Destruction D is that of unseen facts; D_trained and
    their difference, memorised retention, are beside it. Validation facts are left to searches of hyperparameters.

    Args:
        model: Hooked model to score, e.g. an unlearned model.
        bench: Benchmark that says what to ask and how, or facts in any form that `from_pairs` reads.
        metrics: Names from `metrics()`. If None, those that ask only the benchmark's questions and need nothing else.
            Fact-span match is always included: forgetting and destruction are defined by it.
        before: Original model, or its `Scores`; forgetting F and destruction D are relative to it. If the retain facts
            are not split, D is undefined, with a warning. Metrics that compare with the original model
            (`needs="before"`) take the model, not its scores.
        reference: Retrained model, or its `Scores`, for comparison.
        nli: NLI model of metric `"entailment"`: a local directory or a hub id (see `entailment`).
        judge: Judge of metric `"judge"`.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Returns:
        Metrics of each item, with intervals by group, and F and D if `before` is given.

    Raises:
        InputError: If a metric is unknown or needs something that is not given, ids occur twice, or scores given for
            comparison are of another benchmark or lack a metric.
    """
    bench = as_benchmark(bench)
    measured = Measured(_chosen(metrics), nli, judge, batch_tokens)
    measured.require_original(before)
    if measured.of("benchmark") and isinstance(reference, Scores):
        name = measured.of("benchmark")[0].name
        raise InputError(f"metric {name!r} asks the retrained model itself; give the model as reference=")
    check_unique_ids(bench.all_items())
    if before is not None and bench.retain and not bench.unseen:
        warnings.warn(
            f"benchmark {bench.name!r} has no unseen retain facts, so destruction D is undefined and only D_trained is "
            "measured; split it with bench.split(), or load it without retain_split=None",
            stacklevel=2,
        )
    bench = with_room(model, bench)
    compared = Measured(measured.of("answers") + measured.of("texts"), nli, judge, batch_tokens)
    original = None if before is None or isinstance(before, Scores) else _ask(before, bench, compared)
    plain = None if original is None else original.answers
    beside: dict[str, Scores | None] = {}
    for name, other in (("before", before), ("reference", reference)):
        if other is None or isinstance(other, Scores):
            beside[name] = other
        else:
            asked = original if name == "before" and original is not None else _ask(other, bench, compared)
            beside[name] = _scores(asked, compared, plain, BenchmarkRun(other, bench))
    run = BenchmarkRun(model, bench, _model(reference), batch_tokens, _model(before))
    return _scores(_ask(model, bench, measured), measured, plain, run).beside(**beside)


@dataclass(frozen=True)
class Asked:
    """Hold a model's answers to a benchmark, the part of each retain fact, and the scores of the plain texts."""

    answers: Answers
    parts: tuple[str, ...]
    texts: TextScores


def _ask(model: HookedModel, bench: Benchmark, measured: Measured) -> Asked:
    """Ask a model the questions of a benchmark once, and score the plain texts if a metric needs them."""
    asked = (*bench.forget, *bench.retain, *bench.unseen, *bench.general, *bench.unknown)
    parts = [""] * len(bench.forget) + [TRAINED] * len(bench.retain) + [UNSEEN] * len(bench.unseen)
    answers = answer_all(model, asked, bench=bench, batch_tokens=measured.batch_tokens)
    texts = score_texts(model, bench.plain_text.texts) if bench.plain_text and measured.of("texts") else _NO_TEXTS
    return Asked(answers, (*parts, *[""] * (len(asked) - len(parts))), texts)


def _model(given: HookedModel | Scores | None) -> HookedModel | None:
    """Return what is given if it is a model."""
    return None if isinstance(given, Scores) else given


def _scores(asked: Asked, measured: Measured, original: Answers | None, run: BenchmarkRun) -> Scores:
    """Score one model by its answers; `run` is used by metrics of the whole benchmark only."""
    answers, texts = asked.answers, asked.texts
    items, per_item = answers.items, measured.of("answers")
    return Scores(
        benchmark=run.bench.name,
        metrics=tuple(m.name for m in per_item),
        ids=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id for q in items),
        kinds=tuple(q.kind for q in items),
        groups=tuple(q.group for q in items),
        generated=answers.generated,
        values=torch.stack([measured.compute(m, answers, original) for m in per_item]),
        binary=tuple(m.binary for m in per_item),
        text_nll=texts.nll,
        text_tokens=texts.tokens,
        overall={m.name: float(m.compute(run)) for m in measured.of("benchmark")},
        settings={**answers.settings, "retain_split": run.bench.retain_split},
        parts=asked.parts,
        negated=answers.negated,
    )


_NO_TEXTS = TextScores(torch.zeros(0, dtype=torch.double), torch.zeros(0, dtype=torch.long))


def _chosen(names: Sequence[str] | None) -> tuple[Metric, ...]:
    if isinstance(names, str):
        raise InputError(f"metrics={names!r} is one text; give a list of names, e.g. metrics=[{names!r}]")
    if names is None:
        return tuple(m for m in METRICS.values() if m.default)
    return tuple(METRICS[name] for name in dict.fromkeys([FACT, *names]))
