"""Which conclusions survive another rule, method, metric or wording? See README.md beside this file.

    python experiments/sensitivity/run.py                       # the embedded model
    python experiments/sensitivity/run.py smollm2 [SEED ...]

Reads the unlearned models that ../focus/run.py left in its runs/, or makes them. Finished choices are kept in runs/.
Writes results.csv, figure.html and the table of README.md; for the second, `-smollm2` follows each of these names. The
choice by meaning needs the extra `semantic`.
"""

import sys
from pathlib import Path

from unpact_lens.evaluation import to_markdown
from unpact_lens.plots.survival import survival_map
from unpact_lens.report import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import load_experiment, sensitivity_study, survival, survival_table

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
