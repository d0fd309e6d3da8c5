"""Hold out paraphrases so that probes use wordings that unlearning never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError


def split_phrasings(bench: Benchmark, held_out: int) -> tuple[Benchmark, Benchmark]:
    """Split a benchmark into one to unlearn and one to probe.

    The last paraphrases of each forget fact are in the second only.

    Args:
        bench: Benchmark whose forget facts have paraphrases.
        held_out: Number of paraphrases of each fact to hold out. Unlearning always sees the headline prompt. 0 returns
            the benchmark itself twice.

    Returns:
        The benchmark for unlearning, without the held-out paraphrases, and the benchmark for probes, with only them.

    Raises:
        InputError: If `held_out` is negative, or a forget fact has fewer paraphrases.
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
