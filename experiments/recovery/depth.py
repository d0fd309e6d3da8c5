"""How deep is it gone? Sampling and unlearning depth of the models that run.py left in runs/.

    python experiments/recovery/depth.py

Writes depth.csv, and the table `depth` of README.md: means over seeds. A row of the same weights is
not made again.
"""

from pathlib import Path

import pandas as pd
import torch

import unpact_lens as ul
from unpact_lens.comparison import unlearning_depth
from unpact_lens.evaluation import to_markdown
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.recovery import leak
from unpact_lens.report import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import load_experiment

FACTS, SAMPLES = 32, 16  # the first facts; answers drawn for each at temperature 1

torch.set_num_threads(1)
here = Path(__file__).parent
out = here / "depth.csv"
rows = pd.read_csv(out, keep_default_na=False).to_dict("records") if out.is_file() else []
done = {(r["variant"], r["method"], r["seed"]): r for r in rows}
rows = []
before, control, bench = ul.load_model("builtin"), ul.load_model("builtin-retrain"), ul.load_benchmark("builtin")
facts = bench.forget[:FACTS]
models = {("", "before", 0): before, ("", "retrain", 0): control}
for variant, study in load_experiment(here / "config.yaml").items():
    folder = here / "runs" / variant.replace(" ", "-") / "models"
    models |= {(variant, m.name, s): folder / f"{m.name}-seed{s}" for m in study.methods for s in study.seeds}
for (variant, method, seed), model in models.items():
    model = ul.load_model(str(model)) if isinstance(model, Path) else model
    weights, kept = model_hash(model)[:12], done.get((variant, method, seed))
    if kept is not None and kept["weights"] == weights:
        rows.append(kept)
        continue
    drawn = leak(model, facts, bench=bench, samples=SAMPLES, seed=seed)
    rows.append(
        {
            "variant": variant, "method": method, "seed": seed, "weights": weights,
            "leak@1": drawn.at(1), f"leak@{SAMPLES}": drawn.at(SAMPLES),
            "Prob": float(drawn.probability.mean()), "median rank": float(drawn.rank.median()),
            "UDS": unlearning_depth(before, control, model, facts).score,
        }
    )  # fmt: skip
    write_text(out, pd.DataFrame(rows).round(4).to_csv(index=False))

table = (
    pd.DataFrame(rows)
    .groupby(["variant", "method"], sort=False)
    .mean(numeric_only=True)
    .drop(columns="seed")
    .reset_index()
)
fill_block(here / "README.md", "depth", to_markdown(table.set_index("method")))
