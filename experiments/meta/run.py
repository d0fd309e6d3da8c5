"""Test the verdict, the probes and the metrics on models of known truth; see README.md beside this file.

    python -m experiments.meta.run            # build and measure the whole pool
    python -m experiments.meta.run NAME ...   # only these models; `pool.names()` lists all
    python -m experiments.meta.run --tables   # only write the tables, of the models that are measured

`--jobs N` measures N models at a time. Built models and measured scores are kept in runs/ and are not made again. The
command writes results.csv (scores), models.csv (models), changed.csv (relearned and rounded models), figure.svg, and
the tables of README.md.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import unpact_lens as ul
from experiments.meta import measures, pool
from experiments.meta.faithfulness_figure import faithfulness_figure
from experiments.meta.pages import caught_table, labels_table, scores_table
from experiments.meta.prepare import prepare
from experiments.shared.command_line import arguments, jobs
from experiments.shared.page_tables import fill_block
from unpact_lens.errors import InputError
from unpact_lens.results import versions, write_text
from unpact_lens.source_hash import source_hash
from unpact_lens.study.keys import hash_of
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent
TABLES = "--tables"

DRAWN = ("run.py", "prepare.py", "pages.py", "faithfulness_figure.py")
"""Files that only name tasks and make tables and figures of scores."""


def tasks() -> list[tuple[str, str]]:
    """Return every model with each change to measure.

    The unlearned models are also measured after relearning and rounding, and so are the retrained models that they are
    compared with.
    """
    # Models of one training seed come together, because they share a recovery plan.
    plain = [(name, "") for name in pool.names()]
    unlearned = [n for n in pool.names() if pool.truth(n).knowledge == pool.UNKNOWN]
    changed = [*(f"seed{seed}/never-scratch" for seed in pool.SEEDS), *unlearned]
    return plain + [(n, change) for n in changed for change in (measures.RELEARNED, measures.ROUNDED)]


def file_of(name: str, change: str) -> Path:
    """Return the file that keeps the scores of a model, named by what they depend on."""
    key = {"package": source_hash(), "experiment": source_hash(HERE, DRAWN, "*.py"), "versions": versions()}
    return HERE / "runs" / "scores" / hash_of(key)[:12] / f"{name}{f'-{change}' if change else ''}.json"


def measure(name: str, change: str = "") -> str:
    """Measure a model, unless it is measured already, and return its name or why it could not be built."""
    torch.set_num_threads(1)  # fastest for a tiny model
    path = file_of(name, change)
    if path.is_file():
        return name
    try:
        found = measures.measured(name, change)
    except InputError as error:
        return f"{name} {change}: {error}"
    write_text(path, json.dumps(found))
    return name


def measured_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of models and the table of changed models, of those that are measured."""
    models, changed = [], []
    for name, change in tasks():
        if not file_of(name, change).is_file():
            continue
        truth = pool.truth(name)
        row: dict[str, Any] = {
            "model": name, "truth": truth.knowledge, "destroyed": truth.destroyed, "cluster": truth.seed,
            "how": truth.how, "retrained": f"seed{pool.partner(truth.seed)}/never-scratch",
        }  # fmt: skip
        row |= {"change": change} if change else {}
        row |= json.loads(file_of(name, change).read_text(encoding="utf-8"))
        (changed if change else models).append(row)
    return pd.DataFrame(models).round(4), pd.DataFrame(changed).round(4)


def write_tables() -> None:
    """Write the result files, the figure and the tables of the page."""
    models, changed = measured_tables()
    names = [c for c in models if c in (measures.VERDICT, measures.UDS) or c.startswith(("metric:", "probe:"))]
    after = dict(list(changed.groupby("change"))) if len(changed) else {}
    found = ul.meta_evaluate(
        models, names, relearned=after.get(measures.RELEARNED), rounded=after.get(measures.ROUNDED),
        against=measures.VERDICT,
    )  # fmt: skip
    results = found.to_frame().round(4)
    for file, frame in {"results": results, "models": models, "changed": changed}.items():
        write_text(HERE / f"{file}.csv", frame.to_csv(index=False))
    page = HERE / "README.md"
    tables = {"scores": scores_table(results), "labels": labels_table(models), "caught": caught_table(models)}
    for block, table in tables.items():
        fill_block(page, block, to_markdown(table))
    faithfulness_figure(results).save(HERE / "figure.svg")


def main() -> None:
    """Run the command."""
    given = arguments(__doc__)
    if TABLES not in given:
        chosen = [(n, c) for n, c in tasks() if not given or n in given]
        with ProcessPoolExecutor(jobs(), mp_context=multiprocessing.get_context("spawn")) as workers:
            prepare(workers, tuple(dict.fromkeys(n for n, _ in chosen)))
            for line in workers.map(measure, *zip(*chosen, strict=True)):
                print(line, flush=True)
    write_tables()


if __name__ == "__main__":
    main()
