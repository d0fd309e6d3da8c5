"""Does rmu fail to forget because of its retain term? See README.md beside this file.

    python -m experiments.forgetting.rmu

At the settings of the search, with its weight of the retain term, with 1 and without. Finished runs are kept in runs/
and not made again. Writes rmu.csv and the table `rmu` of README.md.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from scored import scored

import unpact_lens as ul
from experiments.shared.blocks import fill_block
from experiments.shared.destruction import destruction_over_seeds
from experiments.shared.experiment import tuned_settings
from unpact_lens.evaluation import to_markdown
from unpact_lens.results import write_text

SEEDS, LEVEL = (0, 1, 2), 0.02

torch.set_num_threads(1)
here = Path(__file__).parent
settings = tuned_settings(here.parent / "settings.yaml")["rmu"]
model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
cells = []
for alpha in (settings["alpha"], 1.0, 0.0):
    for seed in SEEDS:
        kept = here / "runs" / "rmu" / f"alpha{alpha:g}-seed{seed}"
        scores = scored(kept, model, bench, "rmu", seed=seed, stop_at=LEVEL, **{**settings, "alpha": alpha})
        cells.append(SimpleNamespace(method=f"rmu, alpha {alpha:g}", scores=scores))
names = list(dict.fromkeys(cell.method for cell in cells))
results = destruction_over_seeds(SimpleNamespace(cells=tuple(cells)), dict.fromkeys(names[1:], names[0])).round(4)
write_text(here / "rmu.csv", results.to_csv(index=False))
fill_block(here / "README.md", "rmu", to_markdown(results.drop(columns=["seeds", "against"]).set_index("method")))
