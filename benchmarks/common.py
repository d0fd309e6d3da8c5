"""Run each contestant of a benchmark in its own process, and report the ratios as table, JSON and figure.

A benchmark script has three parts: a `Contest` (contestants and their work), calls of `run`, and a call of `report`.
Each contestant runs in its own process, so that its peak memory is its own and no caches are shared. The processes take
turns, one run each per round, so that a machine that slows down slows all of them. To measure one contestant, the
script is started again with `--contestant NAME`; `Contest.serve` answers that call and ends the process.

    contest = Contest(__file__, {"ours": ours, "the peer": peer}, setup)
    parser = contest.parser(__doc__)
    options = contest.serve(parser)                       # does not return in a contestant's process
    rows = [contest.run(options, "prompt 30", prompt=30), contest.run(options, "prompt 200", prompt=200)]
    report("attribution", rows, options)
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

OUTPUT = Path("runs/benchmarks")
"""Default directory of the results."""

Work = Callable[[], Any]
"""Function that is timed. It does the whole work and returns the numbers on which contestants must agree, as nested
lists or a tensor, or None."""

Contestant = Callable[[Any], Work]
"""Function from the value of `setup` to the work. Loading and warming up happen here and are not timed."""


@dataclass(frozen=True)
class Row:
    """Hold one workload, measured on each contestant.

    Attributes:
        name: Name of the workload.
        ours: Name of the contestant that the others are divided by.
        found: Measurements of each contestant by `measure`. All but ours also have `times_ours`, `memory_times_ours`
            and `largest_difference`. A contestant that did not run has `{"not_run": reason}`.
    """

    name: str
    ours: str
    found: dict[str, dict[str, Any]]


class Contest:
    """Run contestants on the same work; the first is ours.

    Args:
        script: `__file__` of the benchmark.
        contestants: Contestants by name.
        setup: Function from the options to the value that all contestants are given.
    """

    def __init__(
        self, script: str, contestants: Mapping[str, Contestant], setup: Callable[[argparse.Namespace], Any]
    ) -> None:
        self.script, self.contestants, self.setup = script, dict(contestants), setup

    def parser(self, description: str | None) -> argparse.ArgumentParser:
        """Return a parser with the options of every benchmark; a benchmark adds its own."""
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        parser.add_argument(
            "--repeats", type=int, default=5, help="number of timed runs, after a first one; the median is reported"
        )
        parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
        parser.add_argument("--output", type=Path, default=OUTPUT, help="directory of the JSON and the figure")
        parser.add_argument("--contestant", help=argparse.SUPPRESS)
        return parser

    def serve(self, parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Return the options; in a contestant's process, measure it, print its JSON and exit."""
        options = parser.parse_args(arguments)
        if options.contestant is None:
            return options
        warnings.filterwarnings("ignore")
        import torch

        torch.set_num_threads(options.threads)
        try:
            work = self.contestants[options.contestant](self.setup(options))
        except NotRun as reason:
            print(json.dumps({"not_run": str(reason)}), flush=True)
        else:
            measure(work)
        sys.exit(0)

    def run(
        self, options: argparse.Namespace, name: str, only: Sequence[str] | None = None, **overrides: object
    ) -> Row:
        """Measure the contestants on one workload, each in its own process, and print the results.

        Args:
            options: Options of this process, which are passed on.
            name: Name of the workload.
            only: Contestants that take part, ours first; all if None.
            **overrides: Options that define this workload.
        """
        chosen = {**vars(options), **overrides}
        print(name, flush=True)
        names = list(only or self.contestants)
        found: dict[str, dict[str, Any]] = {}
        processes: dict[str, subprocess.Popen[str]] = {}
        for each in names:
            processes[each] = self._start({**chosen, "contestant": each})
            found[each] = _answer(processes[each])
        taking_part = [n for n in names if "not_run" not in found[n]]
        seconds: dict[str, list[float]] = {n: [] for n in taking_part}
        for _ in range(options.repeats):
            for each in taking_part:
                seconds[each].append(_answer(processes[each], "again\n")["seconds"])
        for process in processes.values():
            process.communicate()
        for each in taking_part:
            found[each] = {"seconds": statistics.median(seconds[each]), **found[each], "all_seconds": seconds[each]}
        for each in names:
            compare(found, names[0], each)
            print(f"  {each}: {shown(found[each])}", flush=True)
        for each in names:
            found[each].pop("values", None)
        return Row(name, names[0], found)

    def _start(self, options: dict[str, Any]) -> subprocess.Popen[str]:
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if v is not None and v is not False]
        flags = [f.removesuffix("=True") for f in flags]
        return subprocess.Popen(
            [sys.executable, self.script, *flags],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def _answer(process: subprocess.Popen[str], request: str | None = None) -> dict[str, Any]:
    """Return the next line that a contestant's process prints, or the reason why it ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    if request is not None:
        process.stdin.write(request)
        process.stdin.flush()
    for line in process.stdout:
        # Libraries print to stdout too; only our lines are JSON objects.
        if line.startswith("{"):
            return json.loads(line)
    errors = (process.communicate()[1] or "").strip().splitlines() or [f"exit code {process.returncode}"]
    if request is not None:
        raise RuntimeError(f"a contestant failed when it ran again: {errors[-1]}")
    return {"not_run": f"failed: {errors[-1]}"}


class NotRun(Exception):
    """Signal that a contestant cannot take part; the report shows the message."""


def measure(work: Work) -> None:
    """Run once for numbers and memory, then once per line on stdin for time; called in a contestant's process.

    The first line printed holds `peak_mb` (the process's peak), `peak_beyond_model_mb` (what the work added) and
    `values` (flat). Each further line holds `seconds` of one run.
    """
    before = peak_mb(anew=True)
    values = work()
    peak = peak_mb()
    found = {"peak_mb": peak, "peak_beyond_model_mb": peak - before, "values": _flat(values)}
    print(json.dumps(found), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def give_back() -> None:
    """Give freed memory back that the allocator of a CPU has kept, where it is glibc's; else work would reuse it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_mb(anew: bool = False) -> float:
    """Return the peak memory of this process, MiB.

    Args:
        anew: Reset the peak first, on Linux. Building a model takes more memory than holding it, which would hide what
            the work adds.
    """
    reset = Path("/proc/self/clear_refs")
    if anew and reset.exists():
        gc.collect()
        give_back()
        reset.write_text("5", encoding="ascii")
    # In KiB on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def compare(found: dict[str, dict[str, Any]], ours: str, other: str) -> None:
    """Add the ratios to ours and the largest difference of the numbers to another contestant's measurement."""
    mine, theirs = found[ours], found[other]
    if mine is theirs or "seconds" not in mine or "seconds" not in theirs:
        return
    theirs["times_ours"] = theirs["seconds"] / mine["seconds"]
    if mine["peak_beyond_model_mb"] > 0:
        theirs["memory_times_ours"] = theirs["peak_beyond_model_mb"] / mine["peak_beyond_model_mb"]
    a, b = mine["values"], theirs["values"]
    if a and b and len(a) == len(b):
        theirs["largest_difference"] = max(abs(x - y) for x, y in zip(a, b, strict=True))


def shown(found: Mapping[str, Any]) -> str:
    """Format one contestant's measurement as a line."""
    if "not_run" in found:
        return f"not run: {found['not_run']}"
    return ", ".join(f"{k} {v:.3g}" for k, v in found.items() if isinstance(v, (int, float)))


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Describe the machine and the versions."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    packages = ("torch", "transformers", "transformer-lens", "unpact-lens", "captum", "peft", "inseq")
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": options.threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{p: found for p in packages if (found := installed(p)) is not None},
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_markdown(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    path.write_text("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", encoding="utf-8")


def report(name: str, rows: Sequence[Row], options: argparse.Namespace, extra: Mapping[str, Any] | None = None) -> Path:
    """Write the results as `<name>.json` and the ratios as `<name>.png`.

    Args:
        name: Name of the benchmark.
        rows: Measured workloads.
        options: Options of this process.
        extra: Further entries of the JSON.

    Returns:
        The path of the figure.
    """
    keep(name, {"rows": {r.name: r.found for r in rows}, **(extra or {})}, options)
    from unpact_lens.plots.figure import Figure

    path = Figure(figure(name, rows)).save(options.output / f"{name}.png")
    print(f"wrote {options.output / f'{name}.json'} and {path}")
    return path


def keep(name: str, found: Mapping[str, Any], options: argparse.Namespace) -> Path:
    """Write the results and the machine as `<name>.json`, and return the path."""
    from unpact_lens.results import write_json

    return write_json(options.output / f"{name}.json", {"machine": machine(options), **found})


def figure(name: str, rows: Sequence[Row]) -> Any:
    """Draw each contestant's time as a multiple of ours, on a log scale: one line per workload."""
    import plotly.graph_objects as go

    from unpact_lens.plots.theme import series_style

    contestants = list(dict.fromkeys(c for r in rows for c in r.found if c != r.ours))
    picture = go.Figure()
    for i, contestant in enumerate(contestants):
        ratios = [(r.name, r.found.get(contestant, {}).get("times_ours")) for r in rows]
        kept = [(x, y) for x, y in ratios if y is not None]
        colour, symbol = series_style(i)
        picture.add_scatter(
            name=contestant, y=[x for x, _ in kept], x=[y for _, y in kept], mode="markers+text",
            text=[f"{y:.2g}×" for _, y in kept], textposition="top center" if i % 3 == 1 else "bottom center",
            marker={"size": 12, "symbol": symbol, "color": colour},
        )  # fmt: skip
    picture.add_vline(x=1, line_dash="dot")
    picture.update_layout(
        title=f"{name}: time, as multiples of unpact-lens (1 = as fast)",
        xaxis={
            "type": "log", "title": "times the seconds of unpact-lens", "tickvals": [0.2, 0.5, 1, 2, 3, 5, 10, 20, 50]
        },
        yaxis={"range": [len(rows) - 0.5, -0.5], "automargin": True},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        template="plotly_white", width=1100, height=220 + 75 * len(rows),
    )  # fmt: skip
    return picture


def _flat(values: Any) -> list[float] | None:
    if values is None:
        return None
    if hasattr(values, "flatten"):
        return values.flatten().tolist()
    return [x for v in values for x in (_flat(v) if hasattr(v, "__len__") else [v])]
