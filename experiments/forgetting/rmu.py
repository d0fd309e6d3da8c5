"""Test whether rmu fails to forget because of its retain term; see README.md beside this file.

    python -m experiments.forgetting.rmu

The hyperparameters are those of the search, with three weights of the retain term: the value of the search, 1 and 0.
Finished runs are kept in runs/ and are not run again. The command writes rmu.csv and the table `rmu` of README.md.
"""

from pathlib import Path
from types import SimpleNamespace

import torch

import unpact_lens as ul
from experiments.forgetting.scored import scored
from experiments.shared.command_line import arguments
from experiments.shared.destruction_over_seeds import destruction_over_seeds
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

SEEDS, LEVEL = (0, 1, 2), 0.02

arguments(__doc__)
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
