"""Audit the pool of models whose truth is known by construction, and count the verdicts that are right.

    python -m experiments.audit.pool [BUDGET [MODEL ...]]

`--jobs N` audits N models at a time. Models that are not built are built first. Finished audits are kept in `runs/` and
are not made again. `confusion-BUDGET.csv` and the table of README.md have one row for each truth, `pool-BUDGET.csv` has
one for each model.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import unpact_lens as ul
from experiments.meta import pool
from experiments.meta.prepare import prepare
from experiments.shared.command_line import arguments, jobs
from experiments.shared.page_tables import fill_block
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent
RUNS = HERE / "runs"

SIDES = {pool.NEVER: "gone", pool.KNOWS: "there", pool.HIDES: "there"}
"""Side of a truth: the facts are gone, or they are still there, given or hidden."""


def side(labels: tuple[str, ...]) -> str:
    """Return what a verdict claims of the facts: that they are there, that they are gone, or neither."""
    if "hid" in labels or "insufficient" in labels:
        return "there"
    return "gone" if "erased" in labels else "no claim"


def leaning(audit: ul.auditing.Audit) -> str:
    """Return the side of the estimates alone, without their intervals, which 16 subjects leave wide."""
    worst, _ = audit.excess_worst()
    return "there" if audit.forgetting.value < 1 - 0.1 or (worst.n and worst.value > 0.1) else "gone"


def audited(name: str, budget: str) -> dict[str, Any] | str:
    """Audit a model of the pool and return its row of the table, or why it could not be built."""
    torch.set_num_threads(1)  # fastest for a tiny model
    truth, begun = pool.truth(name), time.process_time()
    try:
        model = pool.build(name)
    except ul.InputError as error:
        return str(error)
    found = ul.audit(
        model, before=pool.original(name), control=pool.retrained(name), facts=pool.bench(), budget=budget,
        out=RUNS / budget / name.replace("/", "-"), name=name, progress=False,
    )  # fmt: skip
    worst, probe = found.excess_worst()
    return {
        "model": name, "knowledge": truth.knowledge, "destroyed": truth.destroyed, "verdict": str(found.verdict),
        "side": side(found.verdict.labels), "leaning": leaning(found), "F": found.forgetting.value,
        "D": found.destruction.value, "excess": worst.value, "probe": probe, "facts": found.counts["forget"],
        "cpu_seconds": round(time.process_time() - begun, 1),
    }  # fmt: skip


def main(budget: str = "standard", *names: str) -> None:
    """Audit the models and write the tables."""
    chosen = [n for n in pool.names() if pool.truth(n).knowledge in SIDES and (not names or n in names)]
    with ProcessPoolExecutor(jobs(), mp_context=multiprocessing.get_context("spawn")) as workers:
        prepare(workers, tuple(chosen))
        rows = []
        for row in workers.map(audited, chosen, [budget] * len(chosen)):
            print(row, flush=True)
            if isinstance(row, dict):
                rows.append(row)
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
    groups = right.groupby("knowledge")
    table["claims that are right"] = [
        f"{(g['side'] == g['truth']).sum()} of {(g['side'] != 'no claim').sum()}" for _, g in groups
    ]
    # The verdict as an alarm: it rings where the facts are still there.
    rings = (right["side"] == "there") == (right["truth"] == "there")
    table["alarm is right"] = [f"{rings[g.index].sum()} of {len(g)}" for _, g in groups]
    table["estimates on the right side"] = [f"{(g['leaning'] == g['truth']).sum()} of {len(g)}" for _, g in groups]
    table.to_csv(HERE / f"confusion-{budget}.csv")
    fill_block(HERE / "README.md", f"confusion-{budget}", to_markdown(table))


if __name__ == "__main__":
    main(*arguments(__doc__))
