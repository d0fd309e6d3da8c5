"""Compare leave-one-out with the least that must be computed, contestants in turns in one process.

    python benchmarks/limit.py --shape gpt2-small --prompt 30 --answer 8 --threads 2 --seconds 60 --out runs/limit
    python benchmarks/limit.py --grid --out runs/limit  # every shape, length and number of threads of the documentation
    python benchmarks/limit.py --table runs/limit        # one table and one picture of all measurements in the folder

Work and contestants are those of `benchmarks/attribution.py`. In each turn, every contestant runs once, in an order
that rotates, and its time is divided by the time of *the limit* in the same turn, so that a machine that slows down
slows both. Turns go on until `--seconds` are over (at least one). The median of the ratios and their spread are
reported, of seconds and of the processor's seconds, which a busy machine changes less. `<out>/<name>.json` and
`<name>.md` are written again after each measurement. `--every 8` deletes every eighth token of a long prompt, for all
contestants.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attribution
import torch
from common import NotRun, machine, write_markdown

OURS, LIMIT = "unpact-lens", "the limit"
PEERS = {
    "loop": "HF, one by one",
    "batched": "HF, batched, answer only",
    "captum": "captum, fastest correct",
    "inseq": "inseq, occlusion",
    "unshared": "nothing shared",
}
"""Other contestants, by the names of `--peers`."""


def started(options: argparse.Namespace, names: list[str], record: dict[str, Any]) -> dict[str, Any]:
    """Build the works, run each once as a warm-up, and compare their numbers with ours."""
    tasks = [attribution.setup(argparse.Namespace(**vars(options), seed=1 + i)) for i in range(options.examples)]
    works: dict[str, Any] = {}
    numbers = None
    for name in names:
        found: dict[str, Any] = {"seconds": [], "over_limit": [], "cpu_seconds": [], "cpu_over_limit": []}
        try:
            works[name] = work_of(name, tasks)
            first = works[name]()
        except NotRun as reason:
            works.pop(name, None)
            record["not_run"][name] = str(reason)
            continue
        if first is not None and numbers is not None:
            found["largest_difference"] = float((first - numbers).abs().max())
        if name == OURS:
            numbers = first
        record["contestants"][name] = found
    return works


def work_of(name: str, tasks: list[argparse.Namespace]) -> Any:
    """Return the work of one contestant on one example, or on several: ours batches them, the limit is one for all."""
    if len(tasks) == 1 or name == LIMIT:
        return attribution.CONTESTANTS[name](tasks[0])
    if name == OURS:
        from unpact_lens.attribution import attribute_many

        model = attribution.bridge(tasks[0].shape)
        pairs = [(task.before + task.x, task.y) for task in tasks]
        return lambda: torch.cat([a.per_answer_token for a in attribute_many(model, pairs, progress=False)])
    each = [attribution.CONTESTANTS[name](task) for task in tasks]
    return lambda: torch.cat([work() for work in each])


def take_turns(works: dict[str, Any], options: argparse.Namespace, record: dict[str, Any], end: float) -> None:
    """Run every contestant once in each turn until the time is over, and write the record after each run."""
    names, turn = list(works), 0
    while turn == 0 or (turn < options.turns and time.perf_counter() + record.get("turn_seconds", 0) < end):
        taken: dict[str, float] = {}
        used: dict[str, float] = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start, before = time.perf_counter(), time.process_time()
            works[name]()
            taken[name], used[name] = time.perf_counter() - start, time.process_time() - before
            record["contestants"][name]["seconds"].append(taken[name])
            record["contestants"][name]["cpu_seconds"].append(used[name])
            write(options, record)
        for name in names:
            record["contestants"][name]["over_limit"].append(taken[name] / taken[LIMIT])
            record["contestants"][name]["cpu_over_limit"].append(used[name] / used[LIMIT])
        turn += 1
        record["turn_seconds"] = sum(taken.values())
        write(options, record)


def write(options: argparse.Namespace, record: dict[str, Any]) -> None:
    """Write the record as JSON and as a table."""
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{record['name']}.json").write_text(json.dumps(record, indent=1))
    write_markdown(options.out / f"{record['name']}.md", HEADER, rows_of(record))


HEADER = (
    "shape",
    "prompt",
    "answer",
    "threads",
    "contestant",
    "median s",
    "over the limit",
    "spread",
    "CPU over the limit",
    "turns",
    "differs",
)


def rows_of(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of one measurement's table."""
    prompt = f"{record['prompt']}" + (f", 1 in {record['every']} deleted" if record["every"] > 1 else "")
    if record["prefix"]:
        prompt += f" after {record['prefix']}"
    if record["examples"] > 1:
        prompt = f"{record['examples']} × {prompt}"
    rows = []
    for name, found in record["contestants"].items():
        if not found["seconds"]:
            continue
        ratios = found["over_limit"]
        rows.append(
            (
                record["shape"],
                prompt,
                str(record["answer"]),
                str(record["machine"]["threads"]),
                name,
                f"{statistics.median(found['seconds']):.3g}",
                f"{statistics.median(ratios):.2f}" if ratios else "",
                f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "",
                f"{statistics.median(cpu):.2f}" if (cpu := found.get("cpu_over_limit")) else "",
                str(len(ratios)),
                f"{found['largest_difference']:.1e}" if "largest_difference" in found else "",
            )
        )
    return rows


def table(folder: Path) -> None:
    """Write `limit.md` and `limit.png` (or `.html`) of all measurements in a folder."""
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    records = [r for r in records if r.get("contestants", {}).get(LIMIT, {}).get("over_limit")]
    write_markdown(folder / "limit.md", HEADER, [row for record in records for row in rows_of(record)])
    picture(records, folder)
    print(f"wrote {folder / 'limit.md'}")


def picture(records: list[dict[str, Any]], folder: Path) -> None:
    """Draw the median ratio to the limit of each contestant, with a line from the least to the largest."""
    import plotly.graph_objects as go

    from unpact_lens.plots.figure import Figure
    from unpact_lens.plots.theme import series_style

    figure = go.Figure()
    names = list(dict.fromkeys(n for r in records for n in r["contestants"] if n != LIMIT))
    for i, name in enumerate(names):
        found = [
            (" ".join(rows_of(r)[0][:4][i] + unit for i, unit in enumerate((":", " +", ",", " thr."))), ratios)
            for r in records
            if (ratios := r["contestants"].get(name, {}).get("over_limit"))
        ]
        middle = [statistics.median(ratios) for _, ratios in found]
        colour, symbol = series_style(i)
        figure.add_scatter(
            name=name, mode="markers", marker={"size": 9, "color": colour, "symbol": symbol}, x=middle,
            y=[where.replace(" deleted", "").replace(", 1 in", " 1 in") for where, _ in found],
            error_x={
                "array": [max(ratios) - at for (_, ratios), at in zip(found, middle, strict=True)],
                "arrayminus": [at - min(ratios) for (_, ratios), at in zip(found, middle, strict=True)],
            },
        )  # fmt: skip
    figure.add_vline(x=1, line_dash="dot")
    ticks = (0.8, 1, 1.5, 2, 3, 5, 10, 20)
    figure.update_layout(
        title="Leave-one-out: seconds over those of the limit",
        xaxis={
            "title": "times the limit (1: one Hugging Face forward pass over what cannot be shared)",
            "type": "log",
            "tickvals": ticks,
            "ticktext": [f"{tick:g}" for tick in ticks],
        },
        yaxis={"automargin": True}, height=240 + 36 * len(records),
    )  # fmt: skip
    print(f"wrote {Figure(figure).save(folder / 'limit.png')}")


GRID = [
    *itertools.product(("gpt2-small", "smollm2"), (1, 2), ((30, 8, 1, 0, 1), (30, 20, 1, 0, 1), (200, 8, 8, 0, 1))),
    *itertools.product(("gpt2-small", "smollm2"), (1, 2), ((200, 20, 8, 0, 1), (30, 8, 1, 500, 1))),
    *itertools.product(
        ("gpt2-small",), (2,), ((15, 8, 1, 0, 1), (60, 8, 1, 0, 1), (30, 64, 1, 0, 1), (30, 8, 1, 0, 8))
    ),
    *itertools.product(("gpt2-quarter", "gpt2-medium"), (2,), ((30, 8, 1, 0, 1),)),
]
"""Shape, threads, and prompt, answer, `--every`, prefix and examples of each measurement of `--grid`.

The last two lines show the growth with prompt, answer, examples and parameters.
"""


def grid(options: argparse.Namespace) -> None:
    """Make each measurement of `GRID` in a process of its own, then write the table."""
    names = ("prompt", "answer", "every", "prefix", "examples")
    for shape, threads, sizes in GRID:
        flags = [f"--{name}={size}" for name, size in zip(names, sizes, strict=True)]
        flags += [
            f"--shape={shape}",
            f"--threads={threads}",
            f"--seconds={options.seconds}",
            f"--turns={options.turns}",
        ]
        subprocess.run([sys.executable, __file__, *flags, f"--out={options.out}"], check=True)
    table(options.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="gpt2-small", help="gpt2-small, smollm2, tiny, or a directory with a model")
    parser.add_argument("--prompt", type=int, default=30)
    parser.add_argument("--answer", type=int, default=8)
    parser.add_argument("--prefix", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="delete every n-th token of the prompt only")
    parser.add_argument("--examples", type=int, default=1, help="number of prompts, by attribute_many")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=120.0, help="no turn starts that would end later than this")
    parser.add_argument("--turns", type=int, default=7, help="largest number of turns")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=["batched", "loop", "captum"])
    parser.add_argument("--inseq", help="Python interpreter of an environment that has inseq")
    parser.add_argument("--note", help="what a reader must know of the machine, e.g. that other work ran beside")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/limit"))
    parser.add_argument("--table", type=Path, help="only write the table and the picture of this folder")
    parser.add_argument("--grid", action="store_true", help="measure all tasks of the documentation, one after another")
    options = parser.parse_args()
    if options.grid:
        grid(options)
        return
    if options.table:
        table(options.table)
        return
    end = time.perf_counter() + options.seconds
    torch.set_num_threads(options.threads)
    if options.examples > 1 and (options.every > 1 or options.prefix):
        parser.error("--examples goes with neither --every nor --prefix")
    sizes = (options.prefix, options.prompt, options.answer, options.examples, options.threads)
    name = "-".join([Path(options.shape).name, *map(str, sizes)])
    described = {k: getattr(options, k) for k in ("shape", "prompt", "answer", "prefix", "every", "examples")}
    record = {"name": name, **described, "machine": machine(options), "contestants": {}, "not_run": {}}
    if options.note:
        record["note"] = options.note
    works = started(options, [OURS, LIMIT, *(PEERS[p] for p in options.peers)], record)
    take_turns(works, options, record, end)
    print("\n".join("  ".join(row) for row in rows_of(record)))
    for peer, reason in record["not_run"].items():
        print(f"  {peer}: not run: {reason}")


if __name__ == "__main__":
    main()
