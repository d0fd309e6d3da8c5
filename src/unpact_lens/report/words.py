"""What the report says in words, computed from the study: nothing here claims what the numbers do not say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

SAID = {
    "insufficient": "forgot too little",
    "destroyed": "destroyed facts that were to be kept",
    "hid": "hid facts that a probe brings back",
    "erased": "erased the facts, as far as the probes can tell",
    "undecided": "cannot be judged on this many facts",
}
"""Each verdict as the end of a sentence."""

COMMANDS = {"demo": "unpact demo", "demo-smollm2": "unpact demo --model smollm2"}
"""The commands of the shipped studies."""


def labels_of(cells: Sequence[Any]) -> list[str]:
    """How each cell is called: its method, and its seed where a method was run with several."""
    methods = [cell.method for cell in cells]
    return [f"{c.method} · seed {c.seed}" if methods.count(c.method) > 1 else c.method for c in cells]


def headline(study: Any) -> str:
    """The finding in one or two sentences, from the verdicts.

    Args:
        study: a finished study.
    """
    names = labels_of(study.cells)
    found = {label: [n for n, c in zip(names, study.cells, strict=True) if label in c.verdict.labels] for label in SAID}
    n = len(names)
    count = "The one unlearned model" if n == 1 else f"Of {n} unlearned models"
    epsilon = f"{study.config.get('epsilon', 0.1):g}"
    if found["erased"]:
        opening = f"{count}, {_counted(found['erased'])} {SAID['erased']} (tolerance {epsilon})"
    else:
        opening = f"{count}, none is shown to be reliable at tolerance {epsilon}"
    if n == 1:
        opening = f"{count} {_said_of_one(study.cells[0])}"
    rest = [f"{_counted(found[label])} {SAID[label]}" for label in ("destroyed", "hid", "insufficient", "undecided")
            if found[label]]  # fmt: skip
    text = opening + (": " + "; ".join(rest) if rest and n > 1 else "") + "."
    return f"{text} {closest(study)}".strip()


def closest(study: Any) -> str:
    """Which model comes closest to reliable unlearning, and how close."""
    named = zip(labels_of(study.cells), study.cells, strict=True)
    distances = {name: c.verdict.distance for name, c in named if not math.isnan(c.verdict.distance)}
    if len(distances) < 2:
        return ""
    name = min(distances, key=lambda n: distances[n])
    return f"Closest to reliable is {name}, at distance {distances[name]:.2f} (0 is reliable)."


def command(study: Any) -> str:
    """The command that runs this study again."""
    name = str(study.config.get("name", ""))
    return COMMANDS.get(name, f"unpact study {name}.yaml")


def duration(seconds: float) -> str:
    """Wall time for reading.

    >>> duration(8), duration(192), duration(5400)
    ('8 s', '3 min 12 s', '1 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: Any, digits: int = 2) -> str:
    """A number for reading, a dash where it is undefined.

    >>> number(0.125), number(float("nan")), number(None), number(-0.5)
    ('0.12', '–', '–', '−0.50')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def interval(low: Any, high: Any) -> str:
    """An interval for reading; empty where undefined.

    >>> interval(0.1, 0.25), interval(float("nan"), 0.2)
    ('[0.10, 0.25]', '')
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low)}, {number(high)}]"


def _counted(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})"


def _said_of_one(cell: Any) -> str:
    return " and ".join(SAID[label] for label in cell.verdict.labels)
