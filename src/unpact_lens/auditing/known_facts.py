"""Find the facts that a model knows, and the way of asking under which it knows most."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.splits import subject_of
from unpact_lens.evaluation.answers import room_for
from unpact_lens.evaluation.known_facts import right_facts
from unpact_lens.models.hooked import HookedModel

TRIED = 24
"""Number of forget facts that are asked with and without the chat template, to choose."""

Q = TypeVar("Q", bound=QA)


def drawn(items: Sequence[Q], seed: int) -> list[Q]:
    """Return facts in an order that depends on their ids and the seed only, so a larger budget asks the same first.

    One fact of every subject comes first, then a second one of every subject, and so on: facts about one subject are
    alike, so that few facts of many subjects say more.

    Args:
        items: Facts.
        seed: Random seed.
    """
    shuffled = sorted(items, key=lambda q: hashlib.sha256(f"{seed}/{q.id}".encode()).digest())
    earlier: Counter[str] = Counter()
    place = {}
    for qa in shuffled:
        place[qa.id] = earlier[subject_of(qa)]
        earlier[subject_of(qa)] += 1
    return sorted(shuffled, key=lambda q: place[q.id])


def ask_until_known(
    model: HookedModel, bench: Benchmark, items: Sequence[QA], most: int, *, seed: int, batch_tokens: int
) -> tuple[tuple[QA, ...], tuple[QA, ...]]:
    """Ask facts in a drawn order until enough are known.

    Args:
        model: Original model.
        bench: Benchmark that says how to ask.
        items: Facts.
        most: Largest number of known facts.
        seed: Random seed of the order.
        batch_tokens: Largest number of input tokens in one forward pass.

    Returns:
        Known facts and unknown facts, in the drawn order.
    """
    order = drawn(items, seed)
    known: list[QA] = []
    unknown: list[QA] = []
    while order and len(known) < most:
        some, order = order[: most - len(known)], order[most - len(known) :]
        right = right_facts(model, some, bench=bench, batch_tokens=batch_tokens)
        known += [q for q, r in zip(some, right, strict=True) if r]
        unknown += [q for q, r in zip(some, right, strict=True) if not r]
    return tuple(known), tuple(unknown)


def best_way_to_ask(
    model: HookedModel, bench: Benchmark, chat: bool | None, notes: list[str], batch_tokens: int
) -> Benchmark:
    """Return the benchmark with room for every answer, and with the chat template if more facts are known by it.

    Args:
        model: Model that is asked.
        bench: Benchmark.
        chat: True or False if the user decided, None to try both where the tokenizer has a chat template.
        notes: Notes of the audit; the choice is added.
        batch_tokens: Largest number of input tokens in one forward pass.
    """
    room = room_for(model, (*bench.forget, *bench.retain, *bench.unseen), bench.max_new_tokens)
    bench = replace(bench, max_new_tokens=room)
    if chat is not None:
        return replace(bench, chat=chat)
    if not getattr(model.tokenizer, "chat_template", None):
        return bench
    some = bench.forget[:TRIED]
    ways = (bench, replace(bench, chat=not bench.chat))
    right = [sum(right_facts(model, some, bench=way, batch_tokens=batch_tokens)) for way in ways]
    best = 1 if right[1] > right[0] else 0
    asked, other = ("with", "without") if ways[best].chat else ("without", "with")
    notes.append(
        f"Asked {asked} the chat template: {right[best]} of the first {len(some)} forget facts are given, "
        f"{right[1 - best]} {other} it."
    )
    return ways[best]
