"""Phrasings kept from unlearning, so that asking in other words asks in words that were not unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError


def split_phrasings(bench: Benchmark, held_out: int) -> tuple[Benchmark, Benchmark]:
    """A benchmark to unlearn and one to probe: the last paraphrases of each forget fact are only in the second.

    Args:
        bench: whose forget facts have paraphrases.
        held_out: how many paraphrases of each are kept from unlearning, which always sees the headline phrasing; 0
            gives the benchmark itself twice.

    Returns:
        The benchmark that unlearning sees, without them, and the one that the probes ask, with only them.

    Raises:
        InputError: if it is negative, or a forget fact has fewer paraphrases.
    """
    if held_out < 0:
        raise InputError(f"hold_out_phrasings={held_out}; give 0 or more")
    if held_out == 0:
        return bench, bench
    short = next((q for q in bench.forget if len(q.paraphrases) < held_out), None)
    if short is not None:
        name, has = short.id or short.prompt, len(short.paraphrases)
        raise InputError(f"hold_out_phrasings={held_out}, but {name!r} has {has} paraphrases; give a smaller number")

    def cut(items: Sequence[QA], part: slice) -> tuple[QA, ...]:
        return tuple(replace(q, paraphrases=q.paraphrases[part]) for q in items)

    return (
        replace(bench, forget=cut(bench.forget, slice(None, -held_out))),
        replace(bench, forget=cut(bench.forget, slice(-held_out, None))),
    )
