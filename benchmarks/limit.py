"""Compare leave-one-out with the least that must be computed, contestants in turns in one process.

    python benchmarks/limit.py --shape gpt2-small --prompt 30 --answer 8 --threads 2 --seconds 60 --out runs/limit
    python benchmarks/limit.py --grid --out runs/limit  # every shape, length and number of threads of the documentation
    python benchmarks/limit.py --table runs/limit        # one table and one picture of all measurements in the folder

Work and contestants are those of `benchmarks/attribution.py`. In each turn, every contestant runs once, in an order
that rotates, and its time is divided by the time of *the limit* in the same turn, so that a machine that slows down
slows both. Turns go on until `--seconds` are over (at least one). The median of the ratios and their spread are
reported. `<out>/<name>.json` and `<name>.md` are written again after each measurement. `--every 8` deletes every eighth
token of a long prompt, for all contestants.
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
    task = attribution.setup(options)
    works: dict[str, Any] = {}
    numbers = None
    for name in names:
        found: dict[str, Any] = {"seconds": [], "over_limit": []}
        try:
            works[name] = attribution.CONTESTANTS[name](task)
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


def take_turns(works: dict[str, Any], options: argparse.Namespace, record: dict[str, Any], end: float) -> None:
    """Run every contestant once in each turn until the time is over, and write the record after each run."""
    names, turn = list(works), 0
    while turn == 0 or (turn < options.turns and time.perf_counter() + record.get("turn_seconds", 0) < end):
        taken: dict[str, float] = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            works[name]()
            taken[name] = time.perf_counter() - start
            record["contestants"][name]["seconds"].append(taken[name])
            write(options, record)
        for name in names:
            record["contestants"][name]["over_limit"].append(taken[name] / taken[LIMIT])
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
    "turns",
    "differs",
)


def rows_of(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of one measurement's table."""
    prompt = f"{record['prompt']}" + (f", 1 in {record['every']} deleted" if record["every"] > 1 else "")
    if record["prefix"]:
        prompt += f" after {record['prefix']}"
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
                str(len(ratios)),
                f"{found['largest_difference']:.1e}" if "largest_difference" in found else "",
            )
        )
    return rows


def table(folder: Path) -> None:
    """Write `limit.md` and `limit.png` (or `.html`) of all measurements in a folder."""
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    records = [r for r in records if "contestants" in r]
    write_markdown(folder / "limit.md", HEADER, [row for record in records for row in rows_of(record)])
    picture(records, folder)
    print(f"wrote {folder / 'limit.md'}")


def picture(records: list[dict[str, Any]], folder: Path) -> None:
    """Draw the median ratio to the limit of each contestant, with the least and the largest."""
    import plotly.graph_objects as go
    from common import write_figure

    figure = go.Figure()
    names = list(dict.fromkeys(n for r in records for n in r["contestants"] if n != LIMIT))
    for symbol, name in enumerate(names):
        points = []
        for r in records:
            ratios = r["contestants"].get(name, {}).get("over_limit")
            if ratios:
                where = f"{r['shape']}, {r['prompt']} + {r['answer']}, {r['machine']['threads']} threads"
                points.append((where, statistics.median(ratios), min(ratios), max(ratios)))
        figure.add_scatter(
            name=name, mode="markers", marker={"size": 10, "symbol": symbol},
            y=[p[0] for p in points], x=[p[1] for p in points],
            error_x={
                "type": "data", "symmetric": False,
                "array": [p[3] - p[1] for p in points], "arrayminus": [p[1] - p[2] for p in points],
            },
        )  # fmt: skip
    figure.add_vline(x=1.0, line_dash="dot")
    figure.update_layout(
        title="Leave-one-out: seconds over those of the limit (1 = no faster exact method can exist)",
        xaxis={"type": "log", "title": "times the limit", "tickvals": [1, 1.1, 1.5, 2, 3, 5, 10]},
        yaxis={"automargin": True}, template="plotly_white", width=1100, height=260 + 40 * len(records),
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
    )  # fmt: skip
    write_figure(figure, folder / "limit.png")


def grid(options: argparse.Namespace) -> None:
    """Measure every shape, prompt, answer and number of threads in a process of its own, then write the table."""
    tasks = [(30, 8, 1, 0), (30, 20, 1, 0), (200, 8, 8, 0), (200, 20, 8, 0), (30, 8, 1, 500)]
    for shape, threads, (prompt, answer, every, prefix) in itertools.product(("gpt2-small", "smollm2"), (1, 2), tasks):
        chosen = {
            "shape": shape,
            "threads": threads,
            "prompt": prompt,
            "answer": answer,
            "every": every,
            "prefix": prefix,
        }
        flags = [
            f"--{name}={value}" for name, value in {**chosen, "seconds": options.seconds, "out": options.out}.items()
        ]
        subprocess.run([sys.executable, __file__, *flags, f"--turns={options.turns}"], check=True)
    table(options.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="gpt2-small", help="gpt2-small, smollm2, tiny, or a directory with a model")
    parser.add_argument("--prompt", type=int, default=30)
    parser.add_argument("--answer", type=int, default=8)
    parser.add_argument("--prefix", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="delete every n-th token of the prompt only")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=120.0, help="no turn starts that would end later than this")
    parser.add_argument("--turns", type=int, default=7, help="largest number of turns")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=["batched", "loop", "captum"])
    parser.add_argument("--inseq", help="Python interpreter of an environment that has inseq")
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
    name = f"{Path(options.shape).name}-{options.prefix}-{options.prompt}-{options.answer}-{options.threads}"
    described = {k: getattr(options, k) for k in ("shape", "prompt", "answer", "prefix", "every")}
    record = {"name": name, **described, "machine": machine(options), "contestants": {}, "not_run": {}}
    works = started(options, [OURS, LIMIT, *(PEERS[p] for p in options.peers)], record)
    take_turns(works, options, record, end)
    print("\n".join("  ".join(row) for row in rows_of(record)))
    for peer, reason in record["not_run"].items():
        print(f"  {peer}: not run: {reason}")


if __name__ == "__main__":
    main()
