"""Which conclusions survive another rule, method, metric or wording? See README.md beside this file.

    python -m experiments.sensitivity.run                       # the embedded model
    python -m experiments.sensitivity.run smollm2 [SEED ...]

Reads the unlearned models that ../focus/run.py left in its runs/, or makes them. Finished choices are kept in runs/.
Writes results.csv, figure.html and the table of README.md; for the second, `-smollm2` follows each of these names. The
choice by meaning needs the extra `semantic`.
"""

import sys
from pathlib import Path

from experiments.sensitivity import survival
from experiments.sensitivity.sensitivity_study import sensitivity_study
from experiments.sensitivity.survival import survival_table
from experiments.sensitivity.survival_map import survival_map
from experiments.shared.blocks import fill_block
from experiments.shared.experiment import load_experiment
from unpact_lens.evaluation import to_markdown
from unpact_lens.results import write_text

here = Path(__file__).parent
name = f"-{sys.argv[1]}" if len(sys.argv) > 1 else ""
folder = name.removeprefix("-")
(config,) = load_experiment(here / f"config{name}.yaml", tuple(map(int, sys.argv[2:]))).values()
found = sensitivity_study(
    config,
    here / "runs" / folder,
    models=here.parent / "focus" / "runs" / folder,
    track_every=50 if name else 3,  # as in ../focus/run.py, which the models depend on
)
results = survival(found).round(4)
write_text(here / f"results{name}.csv", results.to_csv(index=False))
fill_block(here / "README.md", f"survival{name}", to_markdown(survival_table(results).set_index("varied")))
survival_map(results).write_html(here / f"figure{name}.html", include_plotlyjs="cdn")
