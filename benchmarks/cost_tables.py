"""Format the tables of the page of costs whose contestants had a process of their own, and compare them with the aims.

Reads `attribution/attribution.json`, `decomposition/*.json` and `unlearning/*.json`, as the scripts of these names
write them with `--output`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Lines = tuple[str, ...]

CONTEST = ("work", "contestant", "seconds", "times ours", "memory, MiB", "times ours", "differs")
"""Columns of a table of contestants."""

GROWTH = ("prompt", "answer", "tokens", "rows", "GFLOP", "seconds", "GFLOP/s")
"""Columns of the table of growth: what cannot be shared, and our seconds."""

STEP = (
    *("work", "contestant", "seconds a step", "between steps", "memory, MiB"),
    *("loop over ours", "between steps", "memory over the loop's", "differs"),
)
"""Columns of the table of unlearning steps."""

FAMILIES = ("method", "bridge, steps/s", "bridge, MiB", "HookedTransformer, steps/s", "HookedTransformer, MiB")
"""Columns of the table of every family of methods."""

SHARED_AIMS = {
    "fastest of captum and a plain loop over leave-one-out": 4.0,
    "prefix computed again over leave-one-out": 8.0,
    "TransformerLens's head attribution over ours, seconds": 5.0,
    "TransformerLens's head attribution over ours, memory": 10.0,
    "plain loop's GA step over ours": 0.95,
    "plain loop's NPO step over ours": 1.1,
}
"""Quantities with the least that they should be."""


def read(folder: Path) -> list[Record]:
    """Return the records of a folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def contest_rows(record: Record) -> list[Lines]:
    """Return one row for each contestant of each workload of a `common.Contest`."""
    return [
        (
            work,
            name,
            number(found.get("seconds")),
            number(found.get("times_ours"), ".2f"),
            number(found.get("peak_beyond_model_mb"), ".0f"),
            number(found.get("memory_times_ours"), ".2f"),
            number(found.get("largest_difference"), ".1e"),
        )
        for work, contestants in record["rows"].items()
        for name, found in contestants.items()
        if "not_run" not in found
    ]


def not_run(record: Record) -> list[str]:
    """Return which contestants did not run, with the reason, a sentence each."""
    found = {
        f"{name} did not run: {answer['not_run']}."
        for contestants in record["rows"].values()
        for name, answer in contestants.items()
        if "not_run" in answer
    }
    return sorted(found)


def limit_over_loop(found: list[str], when: str = "") -> str:
    """Return a line that gives the speed of the limit over a plain loop's in each place; "" without any place."""
    said = f"{when}the limit itself is this many times as fast as a plain loop: {'; '.join(found)}.\n"
    return said[:1].upper() + said[1:] if found else ""


def least_of_loop(record: Record) -> str:
    """Return how many times as fast as a plain loop the limit is, as a sentence: no sharing can be faster."""
    found = [
        f"{contestants['HF, one by one']['seconds'] / contestants['the limit']['seconds']:.1f} ({work})"
        for work, contestants in record["rows"].items()
        if {"HF, one by one", "the limit"} <= contestants.keys()
    ]
    return limit_over_loop(found)


def growth_rows(record: Record) -> list[Lines]:
    """Return one row for each length: tokens and operations that cannot be shared, and our speed."""
    names = ("prompt", "answer", "tokens", "rows")
    return [
        (*(str(row[n]) for n in names), f"{row['gflop']:.0f}", f"{row['seconds']:.3g}", f"{row['gflop_per_s']:.0f}")
        for row in record.get("growth", [])
    ]


def step_rows(record: Record) -> list[Lines]:
    """Return one row for each contestant of `unlearning.py`."""
    return [
        (
            method.upper(),
            {"loop": "plain loop"}.get(who, who),
            number(found["step_seconds"]),
            number(found["steady_step_seconds"]),
            number(found["peak_beyond_model_mb"], ".0f"),
            number(found.get("times_as_fast_as_the_loop"), ".2f"),
            number(found.get("steady_times_as_fast"), ".2f"),
            number(found.get("memory_over_the_loop"), ".2f"),
            number(found.get("largest_difference"), ".1e"),
        )
        for (who, method), found in steps(record)
    ]


def family_rows(record: Record) -> list[Lines]:
    """Return one row for each method of `unlearning.py --methods`."""
    found = dict(steps(record))
    return [
        (method, *(part for wrap in ("bridge", "hooked") for part in speed_and_memory(found.get((wrap, method)))))
        for method in dict.fromkeys(method for _, method in found)
    ]


def speed_and_memory(found: Record | None) -> tuple[str, str]:
    """Return steps per second and peak memory beyond the model, or two empty cells."""
    if found is None:
        return "", ""
    return number(found["steps_per_second"]), number(found["peak_beyond_model_mb"], ".0f")


def steps(record: Record) -> Iterable[tuple[tuple[str, str], Record]]:
    """Return the measurements of `unlearning.py` by contestant and method."""
    for name, found in record.items():
        who, slash, method = name.partition("/")
        if slash:
            yield (who, method), found


def number(value: float | None, form: str = ".3g") -> str:
    """Format a number, or return an empty cell."""
    return "" if value is None else format(value, form)


def aims(attribution: Record | None, decompositions: list[Record], unlearning: list[Record]) -> list[Lines]:
    """Return one row for each aim and measurement."""
    found: list[tuple[str, str, float]] = []
    loop, prefix, seconds, memory, ga, npo = SHARED_AIMS
    for work, contestants in (attribution or {"rows": {}})["rows"].items():
        if work.startswith("prompt 30"):
            equal = ("HF, one by one", "captum, fastest correct", "inseq, occlusion")
            ratios = [contestants[n]["times_ours"] for n in equal if "times_ours" in contestants.get(n, {})]
            found += [(loop, work, min(ratios))] if ratios else []
        if ratio := contestants.get("nothing shared", {}).get("times_ours"):
            found.append((prefix, work, ratio))
    for record in decompositions:
        for work, contestants in record["rows"].items():
            peer: Mapping[str, float] = contestants.get("stack_head_results + logit_attrs", {})
            if "times_ours" in peer:
                found.append((seconds, work, peer["times_ours"]))
                found.append((memory, work, peer["memory_times_ours"]))
    for record in unlearning:
        for (who, method), measured in steps(record):
            if who == "bridge" and "times_as_fast_as_the_loop" in measured:
                found.append(({"ga": ga, "npo": npo}[method], who, measured["times_as_fast_as_the_loop"]))
    return [
        (what, where, f"at least {SHARED_AIMS[what]:g}", f"{value:.2f}", "yes" if value >= SHARED_AIMS[what] else "no")
        for what, where, value in found
    ]
