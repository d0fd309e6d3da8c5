"""Audit the pool of models whose truth is known by construction, and count the verdicts that are right.

    python -m experiments.audit.pool [BUDGET] [MINUTES]

Models that are not built are skipped. Finished audits are kept in `runs/`, so that a second run goes on. After MINUTES
no further audit is started. `confusion-BUDGET.csv` has one row for each truth, `pool-BUDGET.csv` one for each model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd
import torch

import unpact_lens as ul
from experiments.meta import pool

HERE = Path(__file__).parent
RUNS = HERE / "runs"

SIDES = {pool.NEVER: "gone", pool.KNOWS: "there", pool.HIDES: "there"}
"""Side of a truth: the facts are gone, or they are still there, given or hidden."""


def side(labels: tuple[str, ...]) -> str:
    """Return on which side a verdict is: facts still there, gone, or not decided."""
    if "hid" in labels or "insufficient" in labels:
        return "there"
    return "gone" if "erased" in labels else "undecided"


def leaning(audit: ul.auditing.Audit) -> str:
    """Return the side of the estimates alone, without their intervals, which 16 subjects leave wide."""
    worst, _ = audit.excess_worst()
    return "there" if audit.forgetting.value < 1 - 0.1 or (worst.n and worst.value > 0.1) else "gone"


def built() -> list[str]:
    """Return the names of the models that are built, in an order that mixes the truths."""
    found = [name for name in pool.names() if any(pool.RUNS.glob(f"*/{name}/config.json"))]
    order: dict[str, list[str]] = {}
    for name in found:
        order.setdefault(pool.truth(name).knowledge, []).append(name)
    rounds = max(map(len, order.values()), default=0)
    return [names[i] for i in range(rounds) for names in order.values() if i < len(names)]


def main(budget: str = "quick", minutes: float = 25.0) -> None:
    """Audit what is built, and write the tables."""
    torch.set_num_threads(1)
    started, rows = time.process_time(), []
    for name in built():
        truth = pool.truth(name)
        if truth.knowledge not in SIDES or time.process_time() - started > 60 * minutes:
            continue
        out = RUNS / budget / name.replace("/", "-")
        begun = time.process_time()
        try:
            found = ul.audit(
                pool.build(name), before=pool.original(name), control=pool.retrained(name), facts=pool.bench(),
                budget=budget, out=out, name=name, progress=False,
            )  # fmt: skip
        except ul.InputError as error:
            print(name, error, flush=True)
            continue
        worst, probe = found.excess_worst()
        rows.append(
            {
                "model": name, "knowledge": truth.knowledge, "destroyed": truth.destroyed,
                "verdict": str(found.verdict), "side": side(found.verdict.labels), "leaning": leaning(found),
                "F": found.forgetting.value, "D": found.destruction.value, "excess": worst.value, "probe": probe,
                "facts": found.counts["forget"], "cpu_seconds": round(time.process_time() - begun, 1),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
        write(pd.DataFrame(rows), budget)


def write(frame: pd.DataFrame, budget: str) -> None:
    """Write one row for each model, and the confusion table."""
    frame.to_csv(HERE / f"pool-{budget}.csv", index=False, float_format="%.3f")
    right = frame.assign(truth=frame["knowledge"].map(SIDES))
    table = pd.concat(
        [
            pd.crosstab(right["knowledge"], right["side"]).add_prefix("verdict: "),
            pd.crosstab(right["knowledge"], right["leaning"]).add_prefix("estimates: "),
        ],
        axis=1,
    )
    table["right side of the decided"] = [
        f"{((r['side'] == r['truth']).sum())} of {(r['side'] != 'undecided').sum()}"
        for _, r in right.groupby("knowledge")
    ]
    table["estimates on the right side"] = [
        f"{(r['leaning'] == r['truth']).sum()} of {len(r)}" for _, r in right.groupby("knowledge")
    ]
    table.to_csv(HERE / f"confusion-{budget}.csv")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["quick"]), *(float(m) for m in sys.argv[2:3]))
