"""Write the page of costs from what the benchmarks measured: tables, pictures, commands, machines, versions, targets.

    python benchmarks/costs.py --found benchmarks/records --page docs/costs.md

Reads `limit/*.json`, `attribution/attribution.json`, `generation/generation.json`, `decomposition/*.json`,
`unlearning/*.json`, `scale/*.json` and `study/*.json` in the folder. What is missing is called not measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import cost_tables
import limit
import scale
from scale_work import LEAST

Record = dict[str, Any]

SIZES = ("0.1", "0.5", "1", "7")
"""Sizes that the aims are about, billions of parameters."""

AIMS = (
    ("leave-one-out over the limit", "at most 1.1"),
    ("best batched code over leave-one-out", "above 1"),
    ("plain loop over leave-one-out, after 500 tokens", "at least 15"),
    ("Hugging Face's generate over ours, in the same batches", "at least 1.1"),
)
"""Quantities and what they should be."""


def read(folder: Path) -> list[Record]:
    """Return the measurements of a folder of which at least one turn was finished."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return [r for r in found if r.get("contestants", {}).get(limit.LIMIT, {}).get("over_limit")]


def one(file: Path) -> Record | None:
    """Return the content of a JSON file, or None if there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def times_ours(record: Record, name: str) -> float | None:
    """Return the median over the turns of a contestant's seconds over ours."""
    theirs = record["contestants"].get(name, {}).get("over_limit", [])
    ours = record["contestants"].get(limit.OURS, {}).get("over_limit", [])
    ratios = [a / b for a, b in zip(theirs, ours, strict=False)]
    return statistics.median(ratios) if ratios else None


def described(record: Record) -> str:
    """Return what was measured, in a few words."""
    shape, prompt, answer, threads = limit.rows_of(record)[0][:4]
    return f"{shape}, {prompt} + {answer}, {threads} thread{'s' * (threads != '1')}"


def targets(records: list[Record], generation: Record | None) -> list[tuple[str, ...]]:
    """Return one row for each aim and measurement."""
    rows = []
    for record in records:
        where, long = described(record), bool(record["prefix"])
        ours = record["contestants"].get(limit.OURS, {}).get("over_limit")
        if ours:
            value = statistics.median(ours)
            rows.append((AIMS[0][0], where, AIMS[0][1], f"{value:.2f}", "yes" if value <= 1.1 else "no"))
        batched = times_ours(record, limit.PEERS["batched"])
        if batched is not None:
            rows.append((AIMS[1][0], where, AIMS[1][1], f"{batched:.2f}", "yes" if batched > 1 else "no"))
        loop = times_ours(record, limit.PEERS["loop"])
        if loop is not None and long:
            rows.append((AIMS[2][0], where, AIMS[2][1], f"{loop:.1f}", "yes" if loop >= 15 else "no"))
    if generation is not None:
        for name, found in generation["rows"].items():
            theirs = found.get("HF generate, sorted, our batches", {}).get("times_ours")
            if theirs is not None:
                rows.append((AIMS[3][0], name, AIMS[3][1], f"{theirs:.2f}", "yes" if theirs >= 1.1 else "no"))
    measured = {row[0] for row in rows}
    rows += [(aim, "", wanted, "not measured", "") for aim, wanted in AIMS if aim not in measured]
    return rows


def scale_targets(measured: Record) -> list[tuple[str, ...]]:
    """Return one row for each aim of `benchmarks/scale.py` that was measured: a peak, or a peer's seconds over ours."""
    rows = []
    for row in measured["rows"]:
        if row["size"] not in SIZES:
            continue
        work, _, peer = row["work"].partition(", ")
        where = f"{row['size']}B, {measured['machine']['device']}"
        if not peer and work not in ("load", "cell") and "error" not in row:
            aim, found = scale.TARGETS.get(work, 1.25), row.get("resident over model", row["peak over model"])
            met = "yes" if found <= aim else "no"
            rows.append(
                (f"peak memory of {work} over one copy of the model", where, f"at most {aim}", f"{found:.2f}", met)
            )
        aim = scale.SPEED.get(work)
        if peer and aim and row["work"] != LEAST and "times ours" in row:
            met = "yes" if row["times ours"] >= aim else "no"
            rows.append((f"{peer}: its {work} over ours", where, f"at least {aim:g}", f"{row['times ours']:.2f}", met))
    return rows


def missing(records: list[Record]) -> str:
    """Return which measurements of the grid there are none of, as a sentence."""
    names = ("prompt", "answer", "every", "prefix", "examples")
    known = {(r["shape"], r["machine"]["threads"], *(r[n] for n in names if n != "every")) for r in records}
    lacking = [
        f"{shape}, {threads} thr., {'after 500 tokens, ' if prefix else ''}{f'{examples} × ' * (examples > 1)}"
        f"{prompt} + {answer}"
        for shape, threads, (prompt, answer, _, prefix, examples) in limit.GRID
        if (shape, threads, prompt, answer, prefix, examples) not in known
    ]
    return f"Not measured: {'; '.join(lacking)}.\n" if lacking else ""


def after_prefix(records: list[Record]) -> str:
    """Return how many times as fast as a plain loop the limit itself is after a long shared prefix, as a sentence."""
    found = [
        f"{statistics.median(ratios):.1f} ({described(record)})"
        for record in records
        if record["prefix"]
        if (ratios := record["contestants"].get(limit.PEERS["loop"], {}).get("over_limit"))
    ]
    return cost_tables.limit_over_loop(found, "after a shared prefix, ")


def least_of_loop(measured: list[Record]) -> str:
    """Return how many times as fast as a plain loop the limit of leave-one-out is on large models, as a sentence."""
    found = []
    for record in measured:
        seconds = {(row["size"], row["work"]): row["seconds"] for row in record["rows"] if "seconds" in row}
        for size, work in seconds:
            if work == LEAST and (loop := seconds.get((size, "leave-one-out, plain loop"))):
                found.append(f"{loop / seconds[size, work]:.1f} ({size}B, {record['machine']['device']})")
    return cost_tables.limit_over_loop(found)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ("---",) * len(header), *rows))


def machine_of(record: Record) -> str:
    """Return the machine and the versions, as a sentence."""
    return ", ".join(f"{name} {value}" for name, value in record["machine"].items() if name != "threads")


def origin(record: Record) -> str:
    """Return where a record was measured, with its note if it has one."""
    return f"Machine: {machine_of(record)}." + (f" Note: {record['note']}." if "note" in record else "")


def generation_rows(generation: Record) -> list[tuple[str, ...]]:
    """Return one row for each contestant."""
    return [
        (work, name, f"{found['seconds']:.3g}", f"{found.get('times_ours', 1.0):.2f}")
        for work, contestants in generation["rows"].items()
        for name, found in contestants.items()
        if "seconds" in found
    ]


def page(folder: Path, out: Path) -> str:
    """Return the page, and copy the pictures beside it."""
    records, generation = read(folder / "limit"), one(folder / "generation" / "generation.json")
    attribution = one(folder / "attribution" / "attribution.json")
    decompositions, unlearning, large, studies = (
        cost_tables.read(folder / name) for name in ("decomposition", "unlearning", "scale", "study")
    )
    rows = targets(records, generation) + cost_tables.aims(attribution, decompositions, unlearning)
    rows += [row for found in large for row in scale_targets(found)]
    rows += [study_target(found) for found in studies]
    parts = [INTRODUCTION, "## Targets\n", table(("what", "measured on", "aim", "found", "met"), rows)]
    parts += ["", after_prefix(records), NOTES, "## Leave-one-out over the limit\n", LIMIT]
    if records:
        limit.table(folder / "limit")
        images = out.parent / "images"
        shutil.copyfile(folder / "limit" / "limit.png", images / "costs-limit.png")
        parts += ["![Seconds over those of the limit](images/costs-limit.png)\n"]
        for where in dict.fromkeys(map(origin, records)):
            own = [row for record in records if origin(record) == where for row in limit.rows_of(record)]
            parts += [f"{where}\n", table(limit.HEADER, own), ""]
    parts += [missing(records), "## Leave-one-out, a process for each contestant\n", ATTRIBUTION]
    parts += attribution_parts(attribution, folder, out)
    parts += ["## Generation\n", GENERATION]
    if generation:
        parts += [table(("work", "contestant", "seconds", "times ours"), generation_rows(generation))]
        counts = ", ".join(f"{count} {what}" for what, count in generation.get("against_one_by_one", {}).items())
        parts += ["", f"Compared with each question alone: {counts}. Machine: {machine_of(generation)}.", ""]
    else:
        parts += ["Not measured.\n"]
    parts += ["## Decomposition\n", DECOMPOSITION]
    for found in decompositions:
        parts += [f"{origin(found)}\n", table(cost_tables.CONTEST, cost_tables.contest_rows(found)), ""]
    parts += [] if decompositions else [ELSEWHERE]
    parts += ["## Unlearning\n", UNLEARNING]
    for found in unlearning:
        loop = any(who == "loop" for (who, _), _ in cost_tables.steps(found))
        header, own = (
            (cost_tables.STEP, cost_tables.step_rows) if loop else (cost_tables.FAMILIES, cost_tables.family_rows)
        )
        parts += [f"{origin(found)}\n", table(header, own(found)), ""]
    parts += [] if unlearning else [ELSEWHERE]
    parts += ["## Large models\n", SCALE, least_of_loop(large)]
    for found in large:
        parts += [scale.table(found["rows"], found["machine"])]
        parts += [f"Note: {found['note']}.\n"] if "note" in found else []
    parts += ["## A whole study\n", STUDY]
    parts += [table(STUDY_HEADER, [study_row(found) for found in studies]), ""] if studies else ["Not measured.\n"]
    parts += [f"{where}\n" for where in dict.fromkeys(map(origin, studies))]
    return "\n".join(parts)


def attribution_parts(record: Record | None, folder: Path, out: Path) -> list[str]:
    """Return the section of `attribution.py`, and copy its picture beside the page."""
    if record is None:
        return ["Not measured.\n"]
    shutil.copyfile(folder / "attribution" / "attribution.png", out.parent / "images" / "costs-attribution.png")
    return [
        "![Seconds over ours](images/costs-attribution.png)\n",
        f"{origin(record)}\n",
        table(cost_tables.CONTEST, cost_tables.contest_rows(record)),
        "",
        *(f"{sentence}\n" for sentence in cost_tables.not_run(record)),
        cost_tables.least_of_loop(record),
        "Growth with prompt and answer: tokens that cannot be shared, rows to unembed, operations, our seconds.\n",
        table(cost_tables.GROWTH, cost_tables.growth_rows(record)),
        "",
    ]


def study_target(found: Record) -> tuple[str, ...]:
    """Return the row of the aim for the memory of a study."""
    peak = found["peak bytes"] / scale.GIB
    what = f"peak memory of a whole study of a {found['size']}B model, GiB"
    return (what, "CPU", "at most 12", f"{peak:.1f}", "yes" if peak <= 12 else "no")


def study_row(found: Record) -> tuple[str, ...]:
    """Return a row of the table of studies."""
    model, peak = found["model bytes"] / scale.GIB, found["peak bytes"] / scale.GIB
    return (found["size"], f"{model:.2f}", f"{peak:.2f}", f"{peak / model:.2f}", f"{found['seconds'] / 60:.1f}")


STUDY_HEADER = ("size, billions", "one copy, GiB", "peak of the process, GiB", "peak over one copy", "minutes")


INTRODUCTION = """# What it costs

`make bench` measures everything on this page and writes it. Seconds depend on the machine; ratios are formed within one
turn of one run. What the contestants are is on [another page](benchmarks.md).
"""

ATTRIBUTION = """    python benchmarks/attribution.py --output benchmarks/records/attribution

The same work, on GPT-2-small's shape. Each contestant has its own process, so its peak of memory is its own: what the
work adds to the loaded model. captum's defaults and inseq give other numbers; only their time is shown. *Nothing
shared* is our code with each variant computed in full.
"""

DECOMPOSITION = """    python benchmarks/decomposition.py --output benchmarks/records/decomposition
    python benchmarks/decomposition.py --prompt 200 --output benchmarks/records/decomposition
    python benchmarks/decomposition.py --prompt 1980 --answer 20 --ours-only --output benchmarks/records/decomposition

GPT-2-small's shape, a process for each contestant. "times ours" is the seconds, or the memory beyond the loaded model,
over those of the first contestant of the same work. At 30 tokens two thirds of our time are the forward pass, which
every contestant needs, and most of the memory is the pass's as well: the aims there are missed for that.
"""

UNLEARNING = """    python benchmarks/unlearning.py --output benchmarks/records/unlearning
    python benchmarks/unlearning.py --methods --output benchmarks/records/unlearning

A plain loop of transformers runs the reference at each step; ours computes it once. *differs* is the largest difference
of the trained weights. The second table has every family of methods on a small shape: 4 layers of 256, vocabulary 4096.
Why the aims are missed: the seconds of a whole run also hold what the loop does not do. That is F of the result (greedy
answers to all facts), whether the model expects the end token, and that weights are finite and changed. In a profile of
one step (cProfile, one thread, 2026-11-28) they took 4.8, 2.5 and 1.4 s, and the training 3.5 s. The time between two
steps is free of them, and meets the aims on a bridge.
"""

LIMIT = """    python benchmarks/limit.py --grid --out benchmarks/records/limit

The work is leave-one-out of every prompt token, on a bridge with random weights. *The limit* is one Hugging Face
forward pass over as many tokens as cannot be shared: the whole text, and of each variant what follows its deletion. It
is unembedded at the answers' positions. In each turn every contestant runs once, in one process. The ratio is formed
within the turn; its median, least and largest value over the turns are given. "1 in 8 deleted" is a prompt of which
every eighth token is deleted, for all contestants, so that a turn takes seconds and not minutes. *differs* is the
largest difference from our scores, nats. Rows that change one size only show the growth of the cost with prompt,
answer, examples (`8 × 30`) and parameters (the shapes `gpt2-quarter`, `gpt2-small` and `gpt2-medium` have 60, 124 and
355 million).
"""

GENERATION = """    python benchmarks/generation.py --output benchmarks/records/generation

Greedy answers to questions of 6 to 30 tokens, through the bridge. The peer is Hugging Face's `generate`, with 32
questions in their order, and sorted by length in our batches.
"""

SCALE = """    python benchmarks/scale.py --sizes 0.1,0.5,1 --device cpu
    python benchmarks/scale.py --sizes 1,7 --device cuda

Models of Llama's shape with random weights in bf16. *peak* of a CPU is the resident set beyond that of the imported
libraries, where glibc gives freed blocks back at once. "times ours" is a peer's seconds over ours.

Why aims are missed:

- *NPO step at 7 billion parameters.* The step waits for the calls of one CPU core: in a profile of three steps
  (torch's profiler, 2026-11-28, on the hooked model) the GPU worked 0.35 s of each step of 0.56 s. Since then bridges
  train on their source model and an adapter takes fewer calls: 0.44 s, as much as the plain loop, which runs the
  reference at each step. On a CPU, with the layers of that model, a width of 64 and 16 tokens, the loop takes 1.33
  times as long, and 0.86 times with the reference once.
- *Memory of small models on a CPU.* Decomposition and diff hold the unembedding in fp32, and diff one weight at a time
  in fp64. The unembedding in fp32 is 37% of the model at 0.1 billion parameters, 16% at 0.5, 12% at 1, 4% at 7.
- *Memory on a CPU without the setting of glibc* is more: the diff at 0.1 billion parameters peaked at 4.6 times the
  model, not 1.5, because glibc kept freed blocks.
"""

ELSEWHERE = "Not measured with a record; what was measured earlier is on [another page](benchmarks.md).\n"

STUDY = """    python benchmarks/study.py --size 1 --out benchmarks/records/study/1.json

One method that trains adapters and one that trains no weights; scores, contributions, diffs, emphasis, prefill,
quantisation, relearning, verdict and report. The peak is the whole process, with all libraries.
"""

NOTES = """A row of one turn has no spread, and says little where other work ran beside. Costs of leave-one-out beyond
the limit are reading the prompt and forming its variants, one attention call for each group of pieces, and checking
that weights are finite and unchanged.
With `MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000` before the command, glibc keeps large blocks:
ours and the limit both took 7 to 9% less on `smollm2` with a prompt of 200, measured once beside other work.
Why some ratios are below 1 was not looked into.
With a prompt of 200 on `smollm2` and an answer of 8, the ratio is larger with two threads than with one. In a profile
of one thread (cProfile, 2026-11-28) products of tokens and weights take 80% of the time and attention 9%, for ours and
the limit alike. Ours makes 750 attention calls and the limit 60. Small calls may gain less from a second thread; this
was not measured.
With an answer of 20 tokens the limit itself is less than 4 times as fast as a plain loop, so that aim cannot be met.
After a prefix of 500 tokens, on GPT-2-small's shape and one thread, products of tokens and weights take 72% of our
time, attention 13% (every group of pieces reads the keys of the prefix), and selecting keys and values 4%. With two
threads the ratio there has been 1.01 to 1.21 in three turns, with one thread 1.09 in one.

Records are in `benchmarks/records/`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--found", type=Path, default=Path("benchmarks/records"), help="folder with the measurements")
    parser.add_argument("--page", type=Path, default=Path("docs/costs.md"), help="page to write")
    options = parser.parse_args()
    options.page.write_text(page(options.found, options.page), encoding="utf-8")
    print(f"wrote {options.page}")


if __name__ == "__main__":
    main()
