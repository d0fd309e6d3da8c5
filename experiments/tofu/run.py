"""Unlearn real TOFU facts from SmolLM2-135M; see README.md beside this file.

    python -m experiments.tofu.run [--finished] [DIRECTORY|hub [SEED ...]]    # DIRECTORY: TOFU's tables from the hub

With --finished no method is run: the page shows the methods that are finished with all of these seeds.

The run takes a night and resumes where it stopped: checkpoints, cells and scores are kept in runs/. The command writes
results.csv, probes.csv, dilemma.csv, spared.csv, focus.csv, figure.svg and the tables of README.md.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

import unpact_lens as ul
from experiments.shared.command_line import arguments
from experiments.shared.destruction_over_seeds import destruction_over_seeds
from experiments.shared.experiment import load_experiment
from experiments.shared.experiment_key import experiment_key
from experiments.shared.page_tables import fill_block
from unpact_lens.evaluation.tofu import TofuScores, tofu_scores
from unpact_lens.models.checkpoint import save_model
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.recovery.probes.relearn import relearned
from unpact_lens.results import write_text
from unpact_lens.study import by_probe, dilemma, estimates, probes_over_seeds
from unpact_lens.study.run_study import arithmetic, finished_cell
from unpact_lens.study.workspace import Workspace
from unpact_lens.text_tables import to_markdown

TAUGHT = {"lr": 1e-4, "epochs": 10, "batch_size": 16, "precision": "bf16"}
LIMIT = 40  # number of questions from each of TOFU's sets; the forget set has 40
# Gradient ascent with unequal weights of the tokens; it is compared with ga_gdr.
WEIGHTED = ("unpact_select_gdr", "unpact_recall_gdr", "wga_gdr", "satimp_gdr")
MEASURED = {"rouge": ("rouge", "forget"), "probability": ("probability", "forget"),
            "truth ratio": ("truth ratio", "forget"), "log10 forget quality": ("log10 forget quality", "forget"),
            "rouge, real authors": ("rouge", "real_authors"), "model utility": ("model utility", "")}  # fmt: skip

here = Path(__file__).parent
runs = here / "runs"
given = arguments(__doc__)
where, *seeds = [a for a in given if a != "--finished"] or ["hub"]
(config,) = load_experiment(here / "config.yaml", tuple(map(int, seeds))).values()
options = {**config.benchmark_options, **({} if where == "hub" else {"path": where})}
bench = ul.load_benchmark(config.benchmark, **options)
config = config.model_copy(
    update={"model": str(runs / "full"), "control": str(runs / "retain"), "benchmark_options": options}
)
if "--finished" in given:
    cells = Workspace(config, runs / "study", print)
    taught = (runs / "full").is_dir()
    done = [m for m in config.methods if taught and all(finished_cell(cells, m, seed) for seed in config.seeds)]
    if not done:
        sys.exit(f"no method is finished with all of the seeds {list(config.seeds)} in {runs}; run without --finished")
    config = config.model_copy(update={"methods": tuple(done)})
with arithmetic(config):
    for name, facts in {"full": (*bench.forget, *bench.kept), "retain": bench.kept}.items():
        if not (runs / name).is_dir():
            save_model(relearned(ul.load_model("smollm2", wrap=config.wrap), facts, bench, **TAUGHT), runs / name)
study = ul.run_study(config, runs / "study")
space = Workspace(config, runs, print)


def scored(name: str, folder: Path, control: TofuScores | None = None) -> TofuScores:
    """Compute TOFU's metrics of one model, or load them if they are finished."""
    model = ul.load_model(folder, wrap=config.wrap)

    def run() -> TofuScores:
        with arithmetic(config):
            return tofu_scores(model, bench, reference=control, limit=LIMIT)

    key = experiment_key(space, "tofu", scored=model_fingerprint(model), limit=LIMIT)
    return space.kept(f"scores/{name}", key, run)


def row(scores: TofuScores, **first: object) -> dict[str, object]:
    """Make one row of the table of TOFU's metrics."""
    values = scores.to_frame().set_index(["metric", "set"])["value"]
    return {**first, **{name: values[which] for name, which in MEASURED.items()}}


control = scored("retain", runs / "retain")
rows = [
    row(scored("full", runs / "full", control), method="full"),
    row(replace(control, retrain_log_ratio=control.log_ratio), method="retain"),
]
for cell in study.cells:
    name = f"{cell.method}-seed{cell.seed}"
    judged = {
        "F": cell.scores.forgetting.value,
        "D": cell.scores.destruction_far.value,
        "D trained": cell.scores.destruction_trained.value,
        "stopped": cell.stopped,
    }
    scores = scored(name, runs / "study" / "models" / name, control)
    rows.append(row(scores, method=cell.method, seed=cell.seed, **judged))
results = pd.DataFrame(rows).round(4)
focus = pd.DataFrame(
    {
        "method": c.method,
        "seed": c.seed,
        **{f"{measure}, forget": float(c.focus.means[measure][0]) for measure in ("overlap", "mass_shift")},
        **{f"{measure}, retain": float(c.focus_retain.means[measure][0]) for measure in ("overlap", "mass_shift")},
    }
    for c in study.cells
).round(4)
against = {m.name: "ga_gdr" for m in config.methods if m.name in WEIGHTED}
probes = probes_over_seeds(study).round(4)
plane = dilemma(study)
tables = {
    "tofu": (results, results.drop(columns=["seed", "stopped"]).groupby("method", sort=False).mean()),
    "probes": (probes, by_probe(probes, "excess").set_index("probe")),
    "dilemma": (found := plane.to_frame().sort_values("distance").round(4), estimates(found).set_index("method")),
    "spared": (spared := destruction_over_seeds(study, against).round(4), spared.set_index("method")),
    "focus": (focus, focus.drop(columns="seed").groupby("method", sort=False).mean()),
}
for name, (frame, shown) in tables.items():
    write_text(here / f"{'results' if name == 'tofu' else name}.csv", frame.to_csv(index=False))
    fill_block(here / "README.md", name, to_markdown(shown.round(4)))
plane.plot().save(here / "figure.svg")
