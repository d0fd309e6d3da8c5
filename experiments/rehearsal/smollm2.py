"""Compare self-rehearsal with given retain facts on real facts that SmolLM2 knows.

    python -m experiments.rehearsal.smollm2             # all arms and seeds
    python -m experiments.rehearsal.smollm2 ARM ...     # only these arms, e.g. unpact_blind_self-searched
    python -m experiments.rehearsal.smollm2 --end-token ...  # train the end token too, which SmolLM2 does not expect

`--jobs N` runs N at a time. A method that rehearses takes the hyperparameters that were searched for the same method on
given retain facts, and twice the steps: it keeps more, and forgets more slowly. In the arms with `-searched` every
method has the hyperparameters of its own search (`python -m experiments.tune smollm2-rehearsal`); with `-lists`, the
model also names the subjects that it rehearses in lists and not in texts. Finished runs are
kept in runs/. The command writes smollm2.csv and its table in README.md (with the end token, smollm2-end-token), of the
arms and seeds that are finished, smollm2-coverage.csv, which unseen near facts are lost, and smollm2-search.csv, the
trials of that search.
"""

import functools
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from experiments.shared.destruction_over_seeds import destruction_over_seeds
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block
from unpact_lens.models.asking import Asking
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import write_json, write_text
from unpact_lens.study import estimates
from unpact_lens.text_tables import to_markdown
from unpact_lens.unlearning import self_rehearsal

HERE = Path(__file__).parent
END = "--end-token"
SEEDS = (0, 1, 2)
OWN, LISTS = "-searched", "-lists"
AGAINST = {
    "npo_self": "npo_gdr",
    "npo_gdr": "",
    "unpact_blind_self": "unpact_blind_gdr",
    "unpact_blind_gdr": "",
    f"npo_self{OWN}": f"npo_gdr{OWN}",
    f"unpact_blind_self{OWN}": f"unpact_blind_gdr{OWN}",
    f"unpact_blind_gdr{OWN}": "",
    f"npo_gdr{OWN}": "",
    f"npo_self{LISTS}": f"npo_gdr{OWN}",
}
"""Arm with given retain facts that each arm with self-rehearsal is compared with."""
LONGER = {"steps": 300}
"""Hyperparameters of the methods that rehearse, beside those searched."""
LISTED = {"naming": "lists", "drawn": 1024}
"""Hyperparameters of the arms that name subjects in lists."""


@dataclass(frozen=True)
class Cell:
    """Hold the scores of an arm at a seed; `method` names the arm."""

    method: str
    seed: int
    scores: ul.evaluation.Scores


@dataclass(frozen=True)
class Cells:
    """Hold all cells that are finished."""

    cells: Sequence[Cell]


@functools.cache
def world() -> tuple[HookedModel, ul.Benchmark]:
    """Load the model and the facts that it knows."""
    model = ul.load_model("smollm2", wrap="bridge")
    return model, ul.evaluation.known_facts(model, ul.load_benchmark("facts", relations="all"))


def table_name(end: bool) -> str:
    """Return the name of the runs' directory, of the CSV and of its table on the page."""
    return f"smollm2{'-end-token' if end else ''}"


def folder(arm: str, seed: int, end: bool) -> Path:
    """Return the directory of a run."""
    return HERE / "runs" / table_name(end) / f"{arm}-{seed}"


def method_of(arm: str) -> str:
    """Return the method of an arm."""
    return arm.removesuffix(OWN).removesuffix(LISTS)


def settings_of(arm: str, end: bool) -> dict[str, Any]:
    """Return the hyperparameters of an arm; `end` is whether the end token is trained."""
    method, own = method_of(arm), arm.endswith((OWN, LISTS))
    searched = tuned_settings(HERE.parent / f"settings-smollm2{'-rehearsal' if own else ''}.yaml")
    given = searched[method if own else AGAINST[arm] or method]
    given = given | (LONGER if method.endswith("_self") else {})
    return given | (LISTED if arm.endswith(LISTS) else {}) | ({"end_token": True} if end else {})


def rehearsed(arm: str, seed: int) -> list[str]:
    """Return the subjects that an arm with self-rehearsal rehearses at a seed; they are kept in runs/."""
    given = {name: value for name, value in settings_of(arm, False).items() if name in LISTED}
    kept = HERE / "runs" / "smollm2-subjects" / f"{given.get('naming', 'texts')}-{seed}.json"
    if not kept.exists():
        model, bench = world()
        asked = Asking(chat=bench.chat, prefill=bench.prefill, max_new_tokens=bench.max_new_tokens)
        written = self_rehearsal(model, bench.forget, **given, seed=seed, stop=bench.stop, asked=asked)
        write_json(kept, sorted({q.subject for q in written}))
    return json.loads(kept.read_text(encoding="utf-8"))


def run(arm: str, seed: int, end: bool = False) -> str:
    """Unlearn and evaluate, unless that is finished, and return one line on it."""
    kept = folder(arm, seed, end)
    if not kept.exists():
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
        model, bench = world()
        method, settings = method_of(arm), settings_of(arm, end)
        made = ul.unlearn(model, bench, method=method, seed=seed, stop_at=0.02, progress=False, **settings)
        if method.endswith("_self"):
            rehearsed(arm, seed)  # the set that the run has just written is still in memory
        ul.evaluate(made.model, bench, ["fact_span"], before=model).save(kept)
    return f"{arm} {seed} {ul.load(kept)!r}"


def main() -> None:
    """Run the command."""
    given = arguments(__doc__)
    end, chosen = END in given, [arm for arm in given if arm != END] or list(AGAINST)
    pairs = [(method, seed, end) for seed in SEEDS for method in chosen]
    with ProcessPoolExecutor(jobs(), mp_context=multiprocessing.get_context("spawn")) as workers:
        for line in workers.map(run, *zip(*pairs, strict=True)):
            print(line, flush=True)
            write(end)
    write_search()
    if not end:
        write_coverage()


def write(end: bool) -> None:
    """Write the table of the finished arms, on the seeds that all of them have."""
    arms = [arm for arm in AGAINST if folder(arm, SEEDS[0], end).exists()]
    against = {arm: AGAINST[arm] for arm in arms if AGAINST[arm]}
    if not arms or not set(against.values()) <= set(arms):
        return
    seeds = [s for s in SEEDS if all(folder(arm, s, end).exists() for arm in arms)]
    cells = Cells([Cell(arm, s, ul.load(folder(arm, s, end))) for arm in arms for s in seeds])
    found = destruction_over_seeds(cells, against)
    trained = {arm: [c.scores.destruction_trained.value for c in cells.cells if c.method == arm] for arm in arms}
    # mean over the seeds, of the facts that the retain term of `_gdr` trains on
    found.insert(found.columns.get_loc("against"), "D_trained", [sum(v) / len(v) for v in trained.values()])
    found = found.round(4)
    write_text(HERE / f"{table_name(end)}.csv", found.to_csv(index=False))
    fill_block(HERE / "README.md", table_name(end), to_markdown(estimates(found).set_index("method")))


def write_coverage() -> None:
    """Write which unseen near facts are lost: those whose subject the model rehearsed, or the others."""
    arms = [arm for arm in AGAINST if method_of(arm).endswith("_self") and folder(arm, SEEDS[0], False).exists()]
    _, bench = world()
    rows = []
    for arm in arms:
        seeds = [seed for seed in SEEDS if folder(arm, seed, False).exists()]
        counts = {True: [0, 0], False: [0, 0]}
        for seed in seeds:
            named = {plain(subject) for subject in rehearsed(arm, seed)}
            given = ul.load(folder(arm, seed, False)).items_frame().set_index("id")["fact_span"]
            for fact in bench.unseen.near:
                tally = counts[plain(fact.subject) in named]
                tally[0] += 1
                tally[1] += given[fact.id] == 0
        for inside, (facts, lost) in counts.items():
            row = {"arm": arm, "seeds": len(seeds), "subject": "rehearsed" if inside else "not rehearsed"}
            rows.append(row | {"facts": facts, "lost": lost, "share lost": round(lost / max(facts, 1), 4)})
    found = pd.DataFrame(rows)
    write_text(HERE / "smollm2-coverage.csv", found.to_csv(index=False))
    fill_block(HERE / "README.md", "smollm2-coverage", to_markdown(found.set_index("arm")))


def plain(subject: str) -> str:
    """Return a name without its article and capitals."""
    return subject.casefold().removeprefix("the ")


def write_search() -> None:
    """Write the table of the trials of the search."""
    kept = HERE.parent / "tuning" / "smollm2-rehearsal"
    rows = [
        {
            "method": method.name, "lr": trial["lr"], "alpha": trial["alpha"], "F": 1 - trial["forget_score"],
            "D of validation facts": trial["value"] if trial["reached"] else float("nan"), "steps": trial["steps_run"],
        }
        for method in sorted(kept.iterdir())
        for trial in ul.load(method).trials
    ]  # fmt: skip
    found = pd.DataFrame(rows)
    write_text(HERE / "smollm2-search.csv", found.to_csv(index=False))
    shown = found.round({"alpha": 2, "F": 2, "D of validation facts": 2}).assign(lr=found["lr"].map("{:.2e}".format))
    fill_block(HERE / "README.md", "smollm2-search", to_markdown(shown.set_index("method")))


if __name__ == "__main__":
    main()
