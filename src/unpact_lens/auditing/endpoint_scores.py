"""Ask an endpoint, which gives texts only, and score its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.splits import TRAINED, UNSEEN
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import Answers, ask, prefill_for
from unpact_lens.evaluation.metrics import METRICS
from unpact_lens.evaluation.result import Scores
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import HookedModel

OF_TEXTS = ("fact_span", "exact_match", "rouge_l", "rouge_l_recall", "rouge_1", "rouge_1_recall", "degenerate")
"""Metrics that need the generated answers only."""

PROBES_OF_TEXTS = ("prefill", "paraphrase", "refusal_prefix", "refusal_wording", "translation_es")
"""Probes that need the generated answers only, beside emphasis."""


def completing(endpoint: Endpoint, bench: Benchmark) -> Callable[[Sequence[tuple[str, str]]], list[str]]:
    """Return a function that asks an endpoint for its greedy completions.

    Args:
        endpoint: Endpoint.
        bench: Benchmark that gives the length of an answer.

    Raises:
        InputError: If the benchmark asks by the chat template, or ends answers otherwise than at the end of the line.
    """
    if bench.chat:
        raise InputError("an endpoint completes plain text and has no chat template; give chat=False (--no-chat)")
    if bench.stop != ("\n",):
        raise InputError(f"an endpoint's answers end at the end of the line, not at stop={bench.stop!r}")
    return lambda wanted: endpoint.complete_all([p + o for p, o in wanted], bench.max_new_tokens)


def endpoint_scores(endpoint: Endpoint, bench: Benchmark) -> Scores:
    """Score an endpoint on every group of facts by the metrics in `OF_TEXTS`.

    Call it while the endpoint's answers are kept in a store, which asks it.

    Args:
        endpoint: Endpoint.
        bench: Benchmark that says what to ask.
    """
    items = (*bench.forget, *bench.retain, *bench.unseen, *bench.general, *bench.unknown)
    parts = [""] * len(bench.forget) + [TRAINED] * len(bench.retain) + [UNSEEN] * len(bench.unseen)
    asked = cast(HookedModel, endpoint)  # the store recognises it
    texts = ask(asked, [q.prompt for q in items], [prefill_for(bench, q) for q in items], bench=bench)
    nothing = tuple(torch.zeros(0) for _ in items)
    answers = Answers(items, tuple(texts), nothing, tuple(t.bool() for t in nothing), ((0, 0),) * len(items))
    metrics = [METRICS[name] for name in OF_TEXTS]
    return Scores(
        benchmark=bench.name,
        metrics=tuple(m.name for m in metrics),
        ids=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id for q in items),
        kinds=tuple(q.kind for q in items),
        groups=tuple(q.group for q in items),
        generated=tuple(texts),
        values=torch.stack([m.compute(answers) for m in metrics]),
        binary=tuple(m.binary for m in metrics),
        settings={"retain_split": bench.retain_split, "max_new_tokens": bench.max_new_tokens},
        parts=(*parts, *[""] * (len(items) - len(parts))),
        negated=answers.negated,
    )
