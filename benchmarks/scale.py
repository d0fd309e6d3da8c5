"""Measure memory and time of large models, 0.1 to 7 billion parameters, with random weights made in memory.

    python benchmarks/scale.py --sizes 0.1,0.5,1 --device cpu --out benchmarks/records/scale
    python benchmarks/scale.py --sizes 1,7 --device cuda --out benchmarks/records/scale
    python benchmarks/scale.py --sizes narrow --tokens 16 --steps 12    # what the calls of a step cost

Models have Llama's shape, seed 0, and bf16 weights. For each size and each piece of work, the report gives the peak of
memory, that peak over the bytes of the model, and seconds. On a GPU, memory is what torch allocated. On a CPU, each
piece of work runs in its own process, and memory is the resident set beyond that of the imported libraries. glibc gives
freed blocks of a mebibyte back at once there (`MALLOC_MMAP_THRESHOLD_`), for ours and the peers alike.

The NPO step trains adapters of rank 8 on 4 examples of 512 tokens (prompt 256, answer 256) with gradient checkpointing.
What remains allocated between two steps (weights, adapters and their optimiser) is given apart from activations.
Its peer is a plain loop with transformers and PEFT. Leave-one-out has a prompt of 30 and an answer of 8 tokens. Its
peers are a plain loop and, if installed, captum; the limit is that of `limit.py`. *Cell* is a short cell of a study:
unlearn, score, attribute, diff and recover on one copy of the weights. The facts are the model's own greedy answers.

JSON and table are written after each measurement, so a run that is cut off keeps what it has.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from scale_work import GIB, LEAST, OURS, SHAPES, WORK, Bed, measure

from unpact_lens.results import write_json, write_text

PACKAGES = ("torch", "transformers", "transformer-lens", "peft", "captum", "unpact-lens")

TARGETS = {"NPO step": 1.5}
"""Largest peak over one copy of the model that is aimed at; of the NPO step, without activations. Otherwise 1.25."""

SPEED = {"NPO step": 1.1, "leave-one-out": 3.0}
"""Aim for a peer's seconds over ours, on a GPU."""

Found = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--sizes", default="0.1", help=f"billions of parameters, of {', '.join(SHAPES)}")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    made.add_argument("--out", type=Path, default=Path("runs/benchmarks/scale"), help="directory of JSON and table")
    made.add_argument("--only", help="pieces of work, separated by semicolons")
    made.add_argument("--steps", type=int, default=4, help="NPO steps; the first is not timed")
    made.add_argument("--tokens", type=int, default=512, help="tokens of each of the four examples of the NPO step")
    made.add_argument("--repeats", type=int, default=3, help="timed runs of fast work, after a first one")
    made.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no work is begun")
    made.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    made.add_argument("--child", help=argparse.SUPPRESS)
    return made


def every(options: argparse.Namespace) -> Iterator[Found]:
    """Measure all work of all sizes and yield each result."""
    started = time.monotonic()
    names = [n for n in WORK if options.only is None or n in options.only.split(";")]
    for size in options.sizes.split(","):
        bed = Bed(size, options) if options.device == "cuda" else None
        for name in names:
            print(f"{time.monotonic() - started:.0f} s: {size} B, {name}", flush=True)
            if time.monotonic() - started > options.budget:
                yield {"size": size, "work": name, "error": "not measured: the time was used up"}
            elif bed is None:
                yield in_own_process(options, size, name)
            else:
                if name in OURS:  # the peers need the memory of ours
                    bed.drop("before", "after")
                yield measure(bed, name)
        del bed
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()


def in_own_process(options: argparse.Namespace, size: str, name: str) -> Found:
    """Measure one piece of work in a process of its own, and return what it prints."""
    flags = [f"--{k}={getattr(options, k)}" for k in ("device", "dtype", "steps", "tokens", "repeats", "threads")]
    command = [sys.executable, __file__, *flags, f"--sizes={size}", f"--child={name}"]
    # By default glibc keeps freed blocks of up to 32 MiB for itself, which would count as memory in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    for line in answer.stdout.splitlines():
        if line.startswith("{"):
            return json.loads(line)
    last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    return {"size": size, "work": name, "error": last if answer.returncode >= 0 else f"killed ({last})"}


def compare(rows: list[Found]) -> None:
    """Add each peer's seconds over ours, and the largest difference of the numbers."""
    for row in rows:
        ours = next((r for r in rows if (r["size"], r["work"]) == (row["size"], OURS.get(row["work"]))), None)
        if ours is None or "seconds" not in row or "seconds" not in ours:
            continue
        row["times ours"] = row["seconds"] / ours["seconds"]
        if "values" in row and "values" in ours:
            row["largest difference"] = max(abs(a - b) for a, b in zip(row["values"], ours["values"], strict=True))
            row["largest value"] = max(map(abs, ours["values"]))


def machine(options: argparse.Namespace) -> Found:
    """Describe the machine, the versions and the options."""
    found: Found = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "cores": os.cpu_count(), "python": platform.python_version(), "dtype": options.dtype, "steps": options.steps,
        "threads": options.threads, "seed": 0,
    }  # fmt: skip
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def table(rows: list[Found], described: Found) -> str:
    """Format the results as a table."""
    head = ["size", "work", "peak, GiB", "peak over model", "without activations", "aim", "seconds", "times ours"]
    lines = [
        ", ".join(f"{k} {v}" for k, v in described.items()),
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['size']} | {row['work']} | {row['error']} |" + " |" * (len(head) - 3))
            continue
        peer = row["work"] in OURS
        aim = "" if peer or row["work"] in ("load", "cell") else f"{TARGETS.get(row['work'], 1.25)}"
        if peer and row["work"] != LEAST and described["device"] != platform.machine():
            aim = f"≥ {SPEED[OURS[row['work']]]} × ours"
        cells = [
            row["size"], row["work"], f"{row['peak bytes'] / GIB:.2f}", f"{row['peak over model']:.2f}",
            f"{row['resident over model']:.2f}" if "resident over model" in row else "", aim,
            f"{row['seconds']:.3g}" if "seconds" in row else "",
            f"{row['times ours']:.2f}" if "times ours" in row else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser().parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    if options.child:
        measure(Bed("tiny", options), options.child)  # imports everything and warms up, before memory is counted
        print(json.dumps(measure(Bed(options.sizes, options), options.child)), flush=True)
        return
    if unknown := [s for s in options.sizes.split(",") if s not in SHAPES]:
        sys.exit(f"--sizes {unknown[0]}: give some of {', '.join(SHAPES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Found] = []
    described = machine(options)
    for row in every(options):
        rows.append(row)
        compare(rows)
        shown = {k: v for k, v in row.items() if k not in ("values", "traceback")}
        print(json.dumps(shown), flush=True)
        write_json(options.out / f"{options.device}.json", {"machine": described, "rows": rows})
        write_text(options.out / f"{options.device}.md", table(rows, described))
    print(table(rows, described), flush=True)


if __name__ == "__main__":
    main()
