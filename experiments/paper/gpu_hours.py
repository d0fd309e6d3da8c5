"""Compute the GPU hours of the configurations beside this file from measured costs, and write the table of the page.

    python -m experiments.paper.gpu_hours

The costs are in gpu-costs.json, which `benchmarks/gpu_costs.py` measured on one H100 with a model of the shape of
LLaMA-2-7B. The tables of docs/how-to/clusters.md are written again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.shared.page_tables import fill_block
from unpact_lens.study.config import StudyConfig, load_config
from unpact_lens.study.keys import EXCLUDED, PARTS, SHARED
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "how-to" / "clusters.md"

ROWS = 20
"""Prompts of each fact in the probes of one cell: 5 templates, 5 with random words, and 10 other rows."""

MEASURED_ROWS, MEASURED_NEW, MEASURED_BATCH = 64, 32, 32
"""Answers and new tokens of the measured generation; examples of the measured half step."""


@dataclass(frozen=True)
class Data:
    """Hold the size of a benchmark.

    Attributes:
        forget: Number of forget facts.
        scored: Number of facts that are scored: forget, retain and general.
        new: Tokens of an answer, of the longest in a batch.
        forget_tokens: Tokens of the forget corpus. 0 if questions are unlearned.
        tokens: Tokens of one training example, rounded up to a measured length.
    """

    forget: int
    scored: int
    new: int
    forget_tokens: int
    tokens: int


SIZES = {
    "tofu": Data(forget=400, scored=4000, new=100, forget_tokens=0, tokens=80),
    "muse-news": Data(forget=100, scored=200, new=32, forget_tokens=3_281_546 // 4, tokens=2048),
    "muse-books": Data(forget=100, scored=200, new=32, forget_tokens=4_096_855 // 4, tokens=2048),
    "wmdp-bio": Data(forget=1273, scored=1273, new=24, forget_tokens=0, tokens=1024),
    "wmdp-cyber": Data(forget=1987, scored=1987, new=24, forget_tokens=0, tokens=1024),
}
"""Sizes from the authors' dataset cards. A token of English text counts as 4 bytes."""


def hours(config: StudyConfig, costs: dict[str, Any]) -> dict[str, float | int | str]:
    """Return the row of one configuration: hours of one cell by what they go to, cells, and hours of all.

    Args:
        config: Configuration of the paper.
        costs: Measured seconds.
    """
    data, settings = SIZES[config.benchmark], config.methods[0].settings
    batch = int(settings["batch_size"])
    examples = math.ceil(data.forget_tokens / data.tokens) if data.forget_tokens else data.forget
    steps = int(settings["steps"]) if "steps" in settings else int(settings["epochs"]) * math.ceil(examples / batch)
    half = costs[f"half step of 32 x {data.tokens} tokens"] * batch / MEASURED_BATCH
    with_retain = [m for m in config.methods if m.name.endswith(("_gdr", "_klr", "rmu"))]
    halves = 1 + len(with_retain) / len(config.methods)
    answer = costs["generate 64 x 32 tokens after 60, fp32 highest"] / MEASURED_ROWS * data.new / MEASURED_NEW
    checks = steps // int(settings.get("check_every", 5))
    parts = {
        "training": steps * half * halves,
        "checks": checks * data.forget * answer,
        "scoring": data.scored * answer + data.scored * 64 / 4096 * costs["score 64 x 64 tokens, fp32 highest"],
        "probes": ROWS * data.forget * answer,
        "contributions": (config.contributions.forget + config.contributions.retain) * 2 * 30 * 70 / 4096
        * costs["score 64 x 64 tokens, fp32 highest"],
    }  # fmt: skip
    cells = len(config.methods) * len(config.seeds)
    one = sum(parts.values()) / 3600
    shown = {name: round(seconds / 3600, 2) for name, seconds in parts.items()}
    return {"benchmark": config.benchmark, "steps": steps, **shown, "one cell": round(one, 2), "cells": cells,
            "all cells": round(one * cells, 1)}  # fmt: skip


def table() -> pd.DataFrame:
    """Return the table of all configurations, in GPU hours, with the sum in the last row."""
    costs = json.loads((HERE / "gpu-costs.json").read_text())
    frame = pd.DataFrame([hours(load_config(path), costs) for path in sorted(HERE.glob("*.yaml"))])
    total = {"benchmark": "sum", "cells": frame["cells"].sum(), "all cells": round(frame["all cells"].sum(), 1)}
    return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)


def exclusions() -> pd.DataFrame:
    """Return the table of the entries that keys leave out."""
    groups = {PARTS: "all", SHARED: "shared parts"}
    rows = [
        {"entry": e.entry, "left out of": groups.get(e.parts, ", ".join(e.parts)), "reason": e.reason} for e in EXCLUDED
    ]
    return pd.DataFrame(rows).set_index("entry")


if __name__ == "__main__":
    fill_block(PAGE, "gpu-hours", to_markdown(table().set_index("benchmark"), digits=2))
    fill_block(PAGE, "exclusions", to_markdown(exclusions()))
