"""Which facts a model provably knows: what cannot be known before cannot be forgotten after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import ask, fact_right, prefill_for
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS
from unpact_lens.stats.estimate import Rate


def known_facts(
    model: Any, bench: Benchmark, *, minimum: int | None = None, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> Benchmark:
    """The benchmark cut down, group by group, to facts that a model gives under the plain prompt.

    A fact is known if the greedy answer holds its fact span. Forget facts that are not known move to the front of
    `unknown`: they are what recovery must not "bring back", and stand in for a retrain model where there is none.

    Args:
        model: the model before unlearning.
        bench: the benchmark.
        minimum: how many forget facts, and how many retain facts, must be known.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        The benchmark with known forget, retain and general facts only.

    Raises:
        InputError: if fewer than `minimum` are known; the message counts them.
    """
    items = (*bench.forget, *bench.retain, *bench.general)
    right = right_facts(model, items, bench=bench, batch_tokens=batch_tokens)
    known = {id(q) for q, r in zip(items, right, strict=True) if r}

    def keep(group: Sequence[QA]) -> tuple[QA, ...]:
        return tuple(q for q in group if id(q) in known)

    kept = replace(
        bench,
        forget=keep(bench.forget),
        retain=keep(bench.retain),
        general=keep(bench.general),
        unknown=(*(replace(q, group="unknown") for q in bench.forget if id(q) not in known), *bench.unknown),
    )
    for name in ("forget", "retain"):
        found, asked = len(getattr(kept, name)), len(getattr(bench, name))
        if minimum is not None and found < minimum:
            raise InputError(
                f"the model knows {found} of the {asked} {name} facts of benchmark {bench.name!r}, minimum={minimum}; "
                "lower minimum, or ask with another chat= or prefill="
            )
    return kept


def knowledge(model: Any, bench: Benchmark, *, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> pd.DataFrame:
    """How many of a benchmark's facts a model gives under the plain prompt, by group and relation.

    Args:
        model: a hooked model with a tokenizer.
        bench: the benchmark.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        One row a group and relation (the kind of knowledge where a fact names no relation): facts asked, facts known,
        the share of them with its 95% interval (Wilson), and `guess`, the share that always giving the commonest answer
        of that row would get right. Where `known` is near `guess`, the model may guess rather than know.
    """
    items = (*bench.forget, *bench.retain, *bench.general)
    right = right_facts(model, items, bench=bench, batch_tokens=batch_tokens)
    frame = pd.DataFrame(
        {
            "group": [q.group for q in items],
            "relation": [q.meta.get("relation", q.kind) for q in items],
            "answer": [q.answer for q in items],
            "right": right,
        }
    )
    rows = []
    for (group, relation), facts in frame.groupby(["group", "relation"], sort=False):
        known = Rate(int(facts["right"].sum()), len(facts))
        rows.append(
            {
                "group": group, "relation": relation, "asked": known.n, "known": known.count, "share": known.value,
                "low": known.low, "high": known.high, "guess": facts["answer"].value_counts().iloc[0] / known.n,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def right_facts(
    model: Any, items: Sequence[QA], *, bench: Benchmark, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> list[bool]:
    """Whether the greedy answer to each plain prompt holds its fact.

    Args:
        model: a hooked model with a tokenizer.
        items: the questions.
        bench: how to ask: chat template, prefill, length of an answer.
        batch_tokens: bound on the tokens of one batch.
    """
    texts = ask(
        model, [q.prompt for q in items], [prefill_for(bench, q) for q in items], bench=bench, batch_tokens=batch_tokens
    )
    return [fact_right(text, q) for text, q in zip(texts, items, strict=True)]
