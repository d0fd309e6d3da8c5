"""Ask whether a larger model loses less: models of the same world with 0.2, 0.8 and 3 million parameters.

    python -m experiments.rehearsal.sizes

`--jobs N` runs N searches at a time. Each model is trained on the world of the embedded model with its vocabulary; the
one of 0.8 million is the embedded model itself. Each method is run at three seeds with two settings of its
hyperparameters: "own search", the best of four draws of learning rate and alpha, scored on validation facts at a seed
of their own, the same draws for all; and "as rehearsal", those of the experiment on the embedded model. The command
writes sizes.csv and the tables of README.md. Finished searches and runs are kept in runs/sizes/.
"""

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block, mean_and_range
from unpact_lens.data.benchmark import QA
from unpact_lens.evaluation.result import Scores
from unpact_lens.models.builtin import Recipe, train_builtin
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent
RUNS = HERE / "runs" / "sizes"
METHODS = ("npo_gdr", "npo_self")
SEEDS = (0, 1, 2)
SEARCH_SEED = 9
LEVEL = 0.02
FIXED = {"steps": 300, "batch_size": 32, "check_every": 5}
SETTINGS = ("own search", "as rehearsal")
SPACE = {"lr": (1e-4, 1e-3), "alpha": (0.5, 10.0)}
RECIPES = {
    "0.2M": Recipe(d_model=48, d_mlp=192, steps=1320, lr=4e-3),
    "0.8M": None,
    "3M": Recipe(n_layers=3, d_model=256, d_mlp=1024, lr=1.5e-3),
}
"""Recipe of each size; None for the embedded model."""


def trained(size: str) -> Path:
    """Train the model of a size unless that is done, and return its directory."""
    torch.set_num_threads(1)
    made, recipe = RUNS / "models" / size, RECIPES[size]
    if not made.exists():
        model = ul.load_model("builtin") if recipe is None else train_builtin(True, recipe)
        ul.export_hf(model, made)
    return made


def folder(size: str, method: str, setting: str) -> Path:
    """Return the directory of the runs of a method on a size."""
    return RUNS / f"{size}-{method}-{setting.replace(' ', '-')}"


def chosen(size: str, method: str, setting: str) -> Mapping[str, Any]:
    """Return learning rate and alpha of a setting; their search must be finished."""
    if setting == "own search":
        return ul.load(folder(size, method, setting) / "search").best
    found = tuned_settings(HERE.parent / "settings-rehearsal.yaml")[method]
    return {name: found[name] for name in SPACE}


def run(size: str, method: str, setting: str) -> str:
    """Search the hyperparameters of a method on a size if asked to, run all seeds, and return one line on it."""
    torch.set_num_threads(1)
    model, bench = ul.load_model(RUNS / "models" / size), ul.load_benchmark("builtin")
    here = folder(size, method, setting)
    if setting == "own search" and not (here / "search").exists():
        ul.unlearning.tune(
            method, model, bench, budget=4, level=LEVEL, space=SPACE, seed=SEARCH_SEED,
            checkpoint=here / "trials", **FIXED,
        ).save(here / "search")  # fmt: skip
    best = chosen(size, method, setting)
    for seed in SEEDS:
        if not (here / f"seed{seed}").exists():
            made = ul.unlearn(model, bench, method=method, seed=seed, stop_at=LEVEL, progress=False, **FIXED, **best)
            ul.evaluate(made.model, bench, ["fact_span"], before=model).save(here / f"seed{seed}")
    return f"{size} {method}, {setting}: {best}"


def shared(qa: QA, forget: tuple[QA, ...]) -> str:
    """Return what an unseen fact shares with the forget facts: names, value, both or nothing."""
    words = {word for q in forget for word in q.subject.split()}
    named = bool(words & set(qa.subject.split()))
    valued = (qa.meta["relation"], qa.answer) in {(q.meta["relation"], q.answer) for q in forget}
    return {(True, True): "names and value", (True, False): "names", (False, True): "value"}.get(
        (named, valued), "nothing"
    )


def row(size: str, method: str, setting: str, seed: int, bench: ul.Benchmark, parameters: int) -> dict[str, Any]:
    """Return the numbers of a finished run."""
    scores, best = ul.load(folder(size, method, setting) / f"seed{seed}"), chosen(size, method, setting)
    assert isinstance(scores, Scores)
    known = {group: float(scores.right_before[scores.among(group)].double().mean()) for group in ("forget", "retain")}
    found = {
        "size": size, "parameters": parameters, "method": method, "hyperparameters": setting, "seed": seed, **best,
        "known_forget": known["forget"], "known_retain": known["retain"], "F": scores.forgetting.value,
        "D": scores.destruction.value, "D_near": scores.destruction_near.value, "D_far": scores.destruction_far.value,
        "D_trained": scores.destruction_trained.value,
    }  # fmt: skip
    lost: dict[str, list[bool]] = {}
    unseen = {q.id: q for q in bench.unseen}
    for fact, before, after in zip(scores.ids, scores.right_before.tolist(), scores.right.tolist(), strict=True):
        if before and fact in unseen:
            lost.setdefault(shared(unseen[fact], bench.forget), []).append(not after)
    return {**found, **{f"D_{kind}": sum(gone) / len(gone) for kind, gone in sorted(lost.items())}}


def tables(runs: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """Return the means over the seeds, with the lowest and highest seed, by size and by what a fact shares."""
    sizes, kinds = [], []
    for (size, method, setting), group in runs.groupby(["size", "method", "hyperparameters"], sort=False):
        first = group.iloc[0]
        sizes.append(
            {"model": size, "parameters": f"{first.parameters:,}", "method": method, "hyperparameters": setting,
             "lr": f"{first.lr:.2g}", "alpha": f"{first.alpha:.2f}",
             "known": f"{first.known_forget:.2f}, {first.known_retain:.2f}",
             **{c: mean_and_range(group[c]) for c in ("F", "D_near", "D_far", "D_trained")}}
        )  # fmt: skip
        shares = ("names and value", "names", "value", "nothing")
        kinds.append(
            {"model": size, "method": method, "hyperparameters": setting,
             **{s: mean_and_range(group[f"D_{s}"]) for s in shares}}
        )  # fmt: skip
    return {"sizes": pd.DataFrame(sizes), "shared": pd.DataFrame(kinds)}


def main() -> None:
    """Train, search and run whatever is not finished, and write the tables."""
    arguments(__doc__)
    wanted = [(size, method, setting) for size in reversed(RECIPES) for method in METHODS for setting in SETTINGS]
    with ProcessPoolExecutor(jobs(), mp_context=multiprocessing.get_context("spawn")) as workers:
        list(workers.map(trained, reversed(RECIPES)))
        for line in workers.map(run, *zip(*wanted, strict=True)):
            print(line, flush=True)
    bench = ul.load_benchmark("builtin")
    counts = {s: sum(p.numel() for p in ul.load_model(trained(s)).parameters() if p.requires_grad) for s in RECIPES}
    runs = pd.DataFrame(
        [row(s, m, h, seed, bench, counts[s]) for s in RECIPES for m in METHODS for h in SETTINGS for seed in SEEDS]
    )
    rates = {column: 4 for column in runs.select_dtypes("float") if column not in SPACE}
    write_text(HERE / "sizes.csv", runs.round(rates).to_csv(index=False))
    for name, table in tables(runs).items():
        fill_block(HERE / "README.md", name, to_markdown(table.set_index("model")))


if __name__ == "__main__":
    main()
