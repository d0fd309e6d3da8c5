"""Compare candidates at one learning rate and weight of the retain term: those that the search found for `npo_self`.

    python -m experiments.candidates.same_settings

No candidate is searched, so none is favoured by its search; the hyperparameters of its own are at their defaults. No
probe is asked. `--jobs N` runs N at once. The command writes same-settings.csv and the table of README.md. Finished
runs are in same-settings.csv and are not run again.
"""

import functools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
import torch

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block, mean_and_range
from unpact_lens.data.benchmark import Benchmark
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
METHODS = (
    "npo_self", "relearn_self", "sam_npo_self", "npo_null_self", "npo_small_self", "npo_ewc_self",
    "npo_orthogonal_self", "npo_local_self",
)  # fmt: skip

Row = dict[str, str | int | float]


@functools.cache
def loaded() -> tuple[HookedModel, Benchmark]:
    """Load the embedded model and its benchmark."""
    torch.set_num_threads(1)
    return ul.load_model("builtin"), ul.load_benchmark("builtin")


def measure(method: str, seed: int) -> Row:
    """Unlearn until at most 2% of the forget facts are generated, and return F and D on unseen facts."""
    model, bench = loaded()
    settings = tuned_settings(HERE.parent / "settings-rehearsal.yaml")["npo_self"]
    run = ul.unlearn(model, bench, method=method, seed=seed, stop_at=0.02, progress=False, **settings)
    scores = ul.evaluate(run.model, bench, ["fact_span"], before=model)
    return {
        "method": method,
        "seed": seed,
        "steps": max(int(row["step"]) for row in run.history.rows),
        "F": round(scores.forgetting.value, 4),
        "D_near": round(scores.destruction_near.value, 4),
        "D_far": round(scores.destruction_far.value, 4),
    }


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each method over the seeds, with the lowest and highest seed in brackets."""
    rows = []
    for method, group in runs.groupby("method", sort=False):
        row = {"method": method, "seeds": len(group), "steps": f"{group['steps'].mean():.0f}"}
        for column in ("F", "D_near", "D_far"):
            row[column] = mean_and_range(group[column])
        rows.append(row)
    return pd.DataFrame(rows)


def measured(missing: list[tuple[str, int]], processes: int) -> Iterator[Row]:
    """Yield the row of each missing run, as it ends."""
    if processes == 1:
        yield from (measure(*key) for key in missing)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(measure, *key) for key in missing]):
            yield done.result()


def main() -> None:
    """Run what is not in same-settings.csv."""
    arguments(__doc__)
    path = HERE / "same-settings.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    done = {(row["method"], row["seed"]) for row in rows}
    for row in measured([(m, s) for s in SEEDS for m in METHODS if (m, s) not in done], jobs()):
        rows.append(row)
        rows.sort(key=lambda r: (METHODS.index(r["method"]), r["seed"]))
        write_text(path, pd.DataFrame(rows).to_csv(index=False))
        print(row, flush=True)
    fill_block(HERE / "README.md", "same-settings", to_markdown(table(pd.DataFrame(rows)).set_index("method")))


if __name__ == "__main__":
    main()
