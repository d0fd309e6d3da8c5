"""Evaluate a model on a benchmark: ask once, then every metric, beside the models it is compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unpact_lens.data.benchmark import Benchmark, check_unique_ids
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answer_metrics import METRICS, Metric
from unpact_lens.evaluation.answers import answer_all
from unpact_lens.evaluation.benchmark_metrics import Whole
from unpact_lens.evaluation.perplexity import TextScores, score_texts
from unpact_lens.evaluation.result import FACT, Scores
from unpact_lens.evaluation.semantic import Judge
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS


def evaluate(
    model: Any,
    bench: Benchmark,
    metrics: Sequence[str] | None = None,
    *,
    before: Any = None,
    reference: Any = None,
    nli: str | os.PathLike[str] | None = None,
    judge: Judge | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Scores:
    """Score a model on every group of a benchmark.

    Args:
        model: the hooked model to score, e.g. after unlearning.
        bench: what to ask, and how.
        metrics: names from `metrics()`; None for those that ask no more than the benchmark's questions and need no
            extra. Fact-span match is always taken: forgetting and destruction are defined by it.
        before: the model before unlearning, or its `Scores`; forgetting F and destruction D are relative to it.
        reference: the retrain model, or its `Scores`; shown beside.
        nli: the model of metric `"entailment"`: a local directory or a hub id (see `entailment`).
        judge: who is asked for metric `"judge"`.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        Metrics item by item, with intervals by group, and F and D if `before` is given.

    Raises:
        InputError: if a metric is unknown or needs something that is not given, ids occur twice, or scores given for
            comparison are of another benchmark or lack a metric.
    """
    chosen, given = _chosen(metrics), {"nli": nli, "judge": judge}
    _check_needs(chosen, given)
    check_unique_ids(bench.all_items())
    per_item = [m for m in chosen if m.of == "answers"]
    beside = {
        name: _as_scores(other, bench, [m.name for m in chosen if m.of != "benchmark"], nli, judge, batch_tokens)
        for name, other in (("before", before), ("reference", reference))
    }
    answers = answer_all(model, bench.all_items(), bench=bench, batch_tokens=batch_tokens)
    items = answers.items
    texts = _texts(model, bench) if any(m.of == "texts" for m in chosen) else _NO_TEXTS
    scores = Scores(
        benchmark=bench.name,
        metrics=tuple(m.name for m in per_item),
        ids=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id for q in items),
        kinds=tuple(q.kind for q in items),
        groups=tuple(q.group for q in items),
        generated=answers.generated,
        values=torch.stack([m.compute(answers, given[m.needs]) if m.needs else m.compute(answers) for m in per_item]),
        binary=tuple(m.binary for m in per_item),
        text_nll=texts.nll,
        text_tokens=texts.tokens,
        overall=_overall(chosen, Whole(model, bench, reference, batch_tokens)),
        settings=answers.settings,
    )
    return scores.beside(**beside)


_NO_TEXTS = TextScores(torch.zeros(0, dtype=torch.double), torch.zeros(0, dtype=torch.long))


def _chosen(names: Sequence[str] | None) -> list[Metric]:
    if isinstance(names, str):
        raise InputError(f"metrics={names!r} is one text; give a list of names, e.g. metrics=[{names!r}]")
    default = [name for name, metric in METRICS.items() if metric.default]
    return [METRICS[name] for name in (default if names is None else dict.fromkeys([FACT, *names]))]


def _overall(chosen: list[Metric], whole: Whole) -> dict[str, float]:
    """The metrics of the whole benchmark; the retrain model is needed itself, not its scores."""
    wanted = [m for m in chosen if m.of == "benchmark"]
    if wanted and isinstance(whole.reference, Scores):
        raise InputError(f"metric {wanted[0].name!r} asks the retrain model itself; give the model as reference=")
    return {m.name: float(m.compute(whole)) for m in wanted}


def _check_needs(chosen: Sequence[Metric], given: Mapping[str, Any]) -> None:
    examples = {"nli": "nli='cross-encoder/nli-deberta-v3-small'", "judge": "judge=ul.Judge(url, model)"}
    for metric in chosen:
        if metric.needs and given[metric.needs] is None:
            raise InputError(f"metric {metric.name!r} needs {metric.needs}=; give e.g. {examples[metric.needs]}")


def _as_scores(
    other: Any, bench: Benchmark, names: list[str], nli: Any, judge: Judge | None, batch_tokens: int
) -> Scores | None:
    if other is None or isinstance(other, Scores):
        return other
    return evaluate(other, bench, names, nli=nli, judge=judge, batch_tokens=batch_tokens)


def _texts(model: Any, bench: Benchmark) -> TextScores:
    return score_texts(model, bench.plain_text.texts) if bench.plain_text else _NO_TEXTS
