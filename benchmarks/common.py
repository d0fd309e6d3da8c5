"""What the benchmarks share: each contestant in a process of its own, and a table, JSON and a picture of the ratios.

A benchmark script is three things: a `Contest` (its contestants and what they work on), a call of `run`, and a call of
`report`. Each contestant is timed in a process of its own, so that its peak memory is its own, and so that no
contestant finds warm caches or a cluttered allocator that another left. The processes take turns, one run each a round,
so that a machine that slows down for a while slows all of them. To measure one, the script is started again with
`--contestant NAME`; `Contest.serve` answers that call and ends the process.

    contest = Contest(__file__, {"ours": ours, "the peer": peer}, setup)
    parser = contest.parser(__doc__)
    options = contest.serve(parser)                       # does not return in a contestant's process
    rows = [contest.run(options, "prompt 30", prompt=30), contest.run(options, "prompt 200", prompt=200)]
    report("attribution", rows, options)
"""

from __future__ import annotations

import argparse
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
"""Where results go unless another directory is asked for."""

Work = Callable[[], Any]
"""What is timed: called again and again, it does the whole work and gives the numbers that contestants must agree on,
as nested lists or a tensor (or None where it gives none)."""

Contestant = Callable[[Any], Work]
"""From what `setup` built to the work. What is done here (loading, warming up) is not timed."""


@dataclass(frozen=True)
class Row:
    """One workload, measured on each contestant.

    Attributes:
        name: of the workload.
        ours: the contestant that the others are divided by.
        found: what `measure` gave for each contestant, and for each but ours `times_ours`, `memory_times_ours` and
            `largest_difference` from ours (where both gave numbers); `{"not_run": reason}` for one that did not run.
    """

    name: str
    ours: str
    found: dict[str, dict[str, Any]]


class Contest:
    """Contestants on the same work, the first of which is ours.

    Args:
        script: `__file__` of the benchmark.
        contestants: by name.
        setup: builds what all contestants are given, from the options.
    """

    def __init__(
        self, script: str, contestants: Mapping[str, Contestant], setup: Callable[[argparse.Namespace], Any]
    ) -> None:
        self.script, self.contestants, self.setup = script, dict(contestants), setup

    def parser(self, description: str | None) -> argparse.ArgumentParser:
        """The options that every benchmark has; a benchmark adds its own."""
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        parser.add_argument("--repeats", type=int, default=5, help="the median of so many runs, after a first one")
        parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
        parser.add_argument("--output", type=Path, default=OUTPUT, help="directory of JSON, picture")
        parser.add_argument("--contestant", help=argparse.SUPPRESS)
        return parser

    def serve(self, parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The options; in a contestant's process, measure it, print its JSON and end."""
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
        """Measure the contestants on one workload, each in its own process, and print what was found.

        Args:
            options: of this process, passed on.
            name: of the workload.
            only: contestants that take part; all if None. The first is ours.
            overrides: options that make this workload.
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
    """The next line that a contestant's process prints; where it ended instead, why."""
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
    """A contestant cannot take part here; the message says why, and stands in the report."""


def measure(work: Work) -> None:
    """In a contestant's process: run once for numbers and memory, then once for each line on stdin, for time.

    Prints first `peak_mb`, the most that the process ever held, `peak_beyond_model_mb`, how much of it the work added
    to what stood before, and `values`, flat; then `seconds` for each further run.
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


def peak_mb(anew: bool = False) -> float:
    """The most memory that this process held so far, MiB.

    Args:
        anew: forget what was held before, where the system can (Linux): a model takes more to build than to hold, and
            what the work adds would hide below that.
    """
    reset = Path("/proc/self/clear_refs")
    if anew and reset.exists():
        gc.collect()
        reset.write_text("5", encoding="ascii")
    # In KiB on Linux, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def compare(found: dict[str, dict[str, Any]], ours: str, other: str) -> None:
    """Add to another's measurement how many times ours it took, and how far its numbers lie from ours."""
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
    """One contestant's measurement in a line."""
    if "not_run" in found:
        return f"not run: {found['not_run']}"
    return ", ".join(f"{k} {v:.3g}" for k, v in found.items() if isinstance(v, (int, float)))


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were measured on."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "transformer-lens", "unpact-lens")
    return {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{p: version(p) for p in packages},
    }


def report(name: str, rows: Sequence[Row], options: argparse.Namespace, extra: Mapping[str, Any] | None = None) -> Path:
    """Write what was found as `<name>.json`, and the ratios as `<name>.png` (`.html` where kaleido is not installed).

    Args:
        name: of the benchmark.
        rows: the workloads.
        options: of this process.
        extra: what else belongs into the JSON.

    Returns:
        The path of the picture.
    """
    from unpact_lens.results import write_text

    keep(name, {"rows": {r.name: r.found for r in rows}, **(extra or {})}, options)
    picture = figure(name, rows)
    try:
        import kaleido  # type: ignore[import-not-found]  # noqa: F401

        path = options.output / f"{name}.png"
        picture.write_image(path, scale=2)
    except (ImportError, RuntimeError):  # kaleido raises RuntimeError where it finds no browser
        path = options.output / f"{name}.html"
        write_text(path, picture.to_html(include_plotlyjs=True))
    print(f"wrote {options.output / f'{name}.json'} and {path}")
    return path


def keep(name: str, found: Mapping[str, Any], options: argparse.Namespace) -> Path:
    """Write what was found as `<name>.json`, with the machine that it was found on; returns the file's path."""
    from unpact_lens.results import write_json

    return write_json(options.output / f"{name}.json", {"machine": machine(options), **found})


def figure(name: str, rows: Sequence[Row]) -> Any:
    """How many times ours each contestant took: a line for each workload, a mark for each contestant, logarithmic."""
    import plotly.graph_objects as go

    contestants = list(dict.fromkeys(c for r in rows for c in r.found if c != r.ours))
    picture = go.Figure()
    for i, contestant in enumerate(contestants):
        ratios = [(r.name, r.found.get(contestant, {}).get("times_ours")) for r in rows]
        kept = [(x, y) for x, y in ratios if y is not None]
        picture.add_scatter(
            name=contestant, y=[x for x, _ in kept], x=[y for _, y in kept], mode="markers+text",
            text=[f"{y:.2g}×" for _, y in kept], textposition="top center" if i % 2 else "bottom center",
            marker={"size": 12, "symbol": i},
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
