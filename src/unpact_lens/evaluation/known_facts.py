"""Find the facts that a model knows: only those can be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from unpact_lens.data.as_facts import FactSource, as_benchmark
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.splits import Facts
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import ask, fact_right, prefill_for, with_room
from unpact_lens.models.hooked import HookedModel
from unpact_lens.stats.estimate import Rate


def known_facts(
    model: HookedModel, bench: FactSource, *, minimum: int | None = None, batch_tokens: int | None = None
) -> Benchmark:
    """Restrict each group of a benchmark to facts that a model gives under the plain prompt; its split stays.

    A fact is known if the greedy answer contains its fact span. Unknown forget facts move to the front of `unknown`:
    recovery must not "bring them back", and they replace a retrained model if there is none.

    Args:
        model: Original model.
        bench: Benchmark, or facts in any form that `from_pairs` reads.
        minimum: Number of forget facts, and of retain facts, that must be known. If None, any number is accepted.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Returns:
        The benchmark with known forget, retain and general facts only.

    Raises:
        InputError: If fewer than `minimum` facts are known; the message counts them.
    """
    bench = as_benchmark(bench)
    items = (*bench.forget, *bench.kept, *bench.general)
    right = right_facts(model, items, bench=bench, batch_tokens=batch_tokens)
    known = {id(q) for q, r in zip(items, right, strict=True) if r}

    def keep(group: Sequence[QA]) -> tuple[QA, ...]:
        return tuple(q for q in group if id(q) in known)

    kept = replace(
        bench,
        forget=keep(bench.forget),
        retain=Facts(keep(bench.retain)),
        validation=Facts(keep(bench.validation)),
        unseen=Facts(keep(bench.unseen)),
        general=keep(bench.general),
        unknown=(*(replace(q, group="unknown") for q in bench.forget if id(q) not in known), *bench.unknown),
    )
    for name, found, asked in (
        ("forget", len(kept.forget), len(bench.forget)),
        ("retain", len(kept.kept), len(bench.kept)),
    ):
        if minimum is not None and found < minimum:
            raise InputError(
                f"the model knows {found} of the {asked} {name} facts of benchmark {bench.name!r}, minimum={minimum}; "
                "lower minimum, or ask with another chat= or prefill="
            )
    return kept


def knowledge(model: HookedModel, bench: FactSource, *, batch_tokens: int | None = None) -> pd.DataFrame:
    """Count the facts of a benchmark that a model gives under the plain prompt, by group and relation.

    Args:
        model: Hooked model with a tokenizer.
        bench: Benchmark, or facts in any form that `from_pairs` reads.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Returns:
        One row for each group and relation (or kind of knowledge, if a fact has no relation): facts asked, facts known,
        their share with its 95% CI (Wilson), and `guess`. `guess` is the share that the most common answer of that row
        would get right. If `share` is near `guess`, the model may guess.
    """
    bench = as_benchmark(bench)
    items = (*bench.forget, *bench.kept, *bench.general)
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
    model: HookedModel, items: Sequence[QA], *, bench: Benchmark, batch_tokens: int | None = None
) -> list[bool]:
    """Return, for each question, whether the greedy answer to the plain prompt contains its fact.

    Args:
        model: Hooked model with a tokenizer.
        items: The questions.
        bench: Benchmark that says how to ask: chat template, answer prefix, length of an answer.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.
    """
    bench = with_room(model, bench, items)
    texts = ask(
        model, [q.prompt for q in items], [prefill_for(bench, q) for q in items], bench=bench, batch_tokens=batch_tokens
    )
    return [fact_right(text, q) for text, q in zip(texts, items, strict=True)]
