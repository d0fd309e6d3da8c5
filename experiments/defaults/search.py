"""Search the default learning rate of every unlearning method on the embedded model.

    python -m experiments.defaults.search             # all methods; finished runs are not run again
    python -m experiments.defaults.search ga npo_gdr  # only these methods
    python -m experiments.defaults.search --chosen    # print the rate chosen for each method

Each run trains for the default length without a stop rule, seed 0. F is measured on the forget facts, D on the
validation facts, which no run trains on and no experiment reports. The rate is doubled until F is at least
`ENOUGH`, or until it is `LARGEST`: the smallest rate on this grid that forgets is the default. Every run is a row of
`results.csv`.
"""

from __future__ import annotations

import csv
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import unpact_lens as ul
from unpact_lens.unlearning import METHODS
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.settings import Settings

TABLE = Path(__file__).parent / "results.csv"
COLUMNS = ("method", "options", "lr", "F", "D_validation", "steps", "seconds")
START, LARGEST = 1e-4, 1.28e-2
ENOUGH = 0.95
ADAPTERS = ("lora_ga_gdr", "lora_npo_gdr", "lora_npo")
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "rmu": tuple({"layer": layer, "alpha": alpha} for layer in (1, 0) for alpha in (1.0, 10.0)),
}
"""Options to try beside the learning rate."""


class Scores:
    """Score F and D of a model on the embedded world."""

    def __init__(self) -> None:
        self.model = ul.load_model("builtin")
        self.bench = ul.load_benchmark("builtin")
        asked = Settings(max_new_tokens=self.bench.max_new_tokens, prefill=self.bench.prefill)
        self.kept = FactsKnown(self.model, self.bench.validation, asked)

    def run(self, method: str, lr: float, options: dict[str, Any]) -> dict[str, Any]:
        """Unlearn with these hyperparameters and return the row of the table."""
        given: dict[str, Any] = {**options, "lr": lr}
        if method.startswith("offset"):
            given["small"] = self.model  # a model may be its own small model
        started = time.time()
        u = ul.unlearn(self.model, self.bench, method=method, progress=False, **given)
        return {
            "method": method, "options": repr(options), "lr": f"{lr:g}", "F": f"{u.forgotten:.3f}",
            "D_validation": f"{1 - self.kept(u.model):.3f}", "steps": u.config["steps"],
            "seconds": f"{time.time() - started:.1f}",
        }  # fmt: skip


def finished() -> list[dict[str, str]]:
    """Return the rows of the table."""
    if not TABLE.is_file():
        return []
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rank(row: dict[str, str]) -> tuple[bool, float]:
    """Return the sort key of a run: enough F first, then the smallest rate; without enough F, large F."""
    enough = float(row["F"]) >= ENOUGH
    return not enough, float(row["lr"]) if enough else -float(row["F"])


def start(method: str) -> float:
    """Return the first rate: that of the variant before it, which forgets faster (`ga`, `ga_gdr`, `ga_klr`)."""
    base, _, suffix = method.rpartition("_")
    earlier = {"gdr": base, "klr": f"{base}_gdr"}.get(suffix)
    best = chosen().get(earlier) if earlier else None
    return START if best is None else float(best["lr"])


def search(method: str, scores: Scores, options: dict[str, Any]) -> None:
    """Double the learning rate until F is enough, writing every run."""
    lr = start(method)
    while True:
        row = next(
            (r for r in finished()
             if (r["method"], r["options"], float(r["lr"])) == (method, repr(options), float(f"{lr:g}"))), None,
        )  # fmt: skip
        if row is None:
            row = scores.run(method, lr, options)
            new = not TABLE.is_file()
            with TABLE.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(*row.values(), flush=True)
        if float(row["F"]) >= ENOUGH or lr >= LARGEST:
            return
        lr *= 2


def chosen() -> dict[str, dict[str, str]]:
    """Return the best row of each method."""
    best: dict[str, dict[str, str]] = {}
    for row in finished():
        if row["method"] not in best or rank(row) < rank(best[row["method"]]):
            best[row["method"]] = row
    return best


def main(names: list[str]) -> None:
    """Search the methods of these names, or all."""
    if names == ["--chosen"]:
        for row in chosen().values():
            print(*row.values())
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    scores = Scores()
    for method in names or [*METHODS, *ADAPTERS]:
        for options in OPTIONS.get(method, ({},)):
            search(method, scores, options)


if __name__ == "__main__":
    main(sys.argv[1:])
