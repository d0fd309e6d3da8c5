"""Real TOFU on the real SmolLM2. See README.md beside this file.

    python experiments/tofu/run.py [DIRECTORY]     # of TOFU's tables as the hub exports them; without it, the hub

Overnight work that goes on where it was stopped: checkpoints, cells and scores are kept in runs/. Writes results.csv
and the table of README.md.
"""

import sys
from pathlib import Path

import pandas as pd

import unpact_lens as ul
from unpact_lens.models.checkpoint import save_model
from unpact_lens.recovery.relearn import relearned
from unpact_lens.report import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import load_experiment
from unpact_lens.text_tables import to_markdown

TAUGHT = {"lr": 5e-5, "epochs": 10, "batch_size": 16}
METRICS = ["rouge_l_recall", "probability", "truth_ratio_forget", "forget_quality_log10", "model_utility"]

here = Path(__file__).parent
runs = here / "runs"
(config,) = load_experiment(here / "config.yaml").values()
options = {**config.benchmark_options, **({"path": sys.argv[1]} if len(sys.argv) > 1 else {})}
bench = ul.load_benchmark(config.benchmark, **options)
for name, taught in {"full": (*bench.forget, *bench.retain), "retain": bench.retain}.items():
    if not (runs / name).is_dir():
        save_model(relearned(ul.load_model("smollm2", wrap=config.wrap), taught, bench, **TAUGHT), runs / name)
config = config.model_copy(
    update={"model": str(runs / "full"), "control": str(runs / "retain"), "benchmark_options": options}
)
study = ul.run_study(config, runs / "study")
control = ul.load_model(config.control, wrap=config.wrap)


def scored(name: str, folder: Path) -> dict[str, float]:
    """TOFU's metrics of one model, kept on disk."""
    kept = runs / "scores" / name
    if not kept.is_dir():
        model = ul.load_model(folder, wrap=config.wrap)
        ul.evaluate(model, bench, METRICS, reference=control).save(kept)
    found = ul.load(kept)
    own = {m: found.mean(m, "forget") for m in METRICS[:2]}
    return {**own, **{m: found.overall[m] for m in METRICS[2:]}}


rows = [{"method": name, **scored(name, runs / name)} for name in ("full", "retain")]
for cell in study.cells:
    judged = {"F": cell.scores.forgetting.value, "D": cell.scores.destruction.value, "verdict": str(cell.verdict)}
    name = f"{cell.method}-seed{cell.seed}"
    rows.append({"method": cell.method, "seed": cell.seed, **scored(name, runs / "study" / "models" / name), **judged})
results = pd.DataFrame(rows)
write_text(here / "results.csv", results.round(4).to_csv(index=False))
table = results.drop(columns=["seed", "verdict"]).groupby("method", sort=False).mean().round(4)
fill_block(here / "README.md", "tofu", to_markdown(table))
