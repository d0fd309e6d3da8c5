"""Write the sentences of the report from the verdicts of a study, and format its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsFloat

if TYPE_CHECKING:
    from unpact_lens.report.study_like import CellLike, StudyLike

SAID = {
    "insufficient": "forgot too little",
    "destroyed": "destroyed facts that should be kept",
    "hid": "hid facts that a probe recovers",
    "erased": "erased the facts, as far as the probes show",
    "undecided": "needs more facts for a verdict",
}
"""Each verdict as the end of a sentence."""

COMMANDS = {"demo": "unpact demo", "demo-smollm2": "unpact demo --model smollm2"}
"""Commands of the shipped studies."""


def labels_of(cells: Sequence[CellLike]) -> list[str]:
    """Name each cell by its method, and by its seed if the method was run with several."""
    methods = [cell.method for cell in cells]
    return [f"{c.method} · seed {c.seed}" if methods.count(c.method) > 1 else c.method for c in cells]


def headline(study: StudyLike) -> str:
    """State the finding of a study in one or two sentences, from its verdicts.

    Args:
        study: A finished study.
    """
    if "headline" in study.config:
        return str(study.config["headline"])
    names = labels_of(study.cells)
    if len(names) == 1:
        labels = study.cells[0].verdict.labels
        return f"The unlearned model {' and '.join(SAID[label] for label in labels)}."
    found = {label: [n for n, c in zip(names, study.cells, strict=True) if label in c.verdict.labels] for label in SAID}
    tolerance = f"{study.config.get('epsilon', 0.1):g}"
    if found["erased"]:
        result = f"{_counted(found['erased'])} {SAID['erased']} (tolerance {tolerance})"
    else:
        result = f"none is shown to be reliable at tolerance {tolerance}"
    others = ("destroyed", "hid", "insufficient", "undecided")
    rest = "; ".join(f"{_counted(found[label])} {SAID[label]}" for label in others if found[label])
    sentence = f"Of {len(names)} unlearned models, {result}" + (f": {rest}" if rest else "")
    return f"{sentence}. {closest(study)}".strip()


def closest(study: StudyLike) -> str:
    """Name the model that is closest to reliable unlearning, with its distance. Empty with fewer than two distances."""
    named = zip(labels_of(study.cells), study.cells, strict=True)
    distances = {name: c.verdict.distance for name, c in named if not math.isnan(c.verdict.distance)}
    if len(distances) < 2:
        return ""
    name = min(distances, key=lambda n: distances[n])
    return f"{name} is closest to reliable, at distance {distances[name]:.2f} (0 is reliable)."


def command(study: StudyLike) -> str:
    """Return the command that runs this study again."""
    if "command" in study.config:
        return str(study.config["command"])
    name = str(study.config.get("name", ""))
    return COMMANDS.get(name, f"unpact study {name}.yaml")


def duration(seconds: float) -> str:
    """Format a wall time.

    >>> duration(8), duration(192), duration(5400)
    ('8 s', '3 min 12 s', '1 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: SupportsFloat | None, digits: int = 2) -> str:
    """Format a number, with a dash if it is undefined.

    >>> number(0.125), number(float("nan")), number(None), number(-0.5)
    ('0.12', '–', '–', '−0.50')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def interval(low: SupportsFloat | None, high: SupportsFloat | None) -> str:
    """Format an interval. Empty if it is undefined.

    >>> interval(0.1, 0.25), interval(float("nan"), 0.2)
    ('[0.10, 0.25]', '')
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low)}, {number(high)}]"


def _counted(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})"
