"""Which conclusions survive another rule, method, metric or wording? See README.md beside this file.

    python experiments/sensitivity/run.py

Reads the unlearned models that ../focus/run.py left in its runs/, or makes them. Finished choices are kept in runs/.
Writes results.csv, figure.html and the table of README.md. The choice by meaning needs the extra `semantic`.
"""

from pathlib import Path

from unpact_lens.evaluation import to_markdown
from unpact_lens.plots.survival import survival_map
from unpact_lens.report import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import load_experiment, sensitivity_study, survival, survival_table

here = Path(__file__).parent
(config,) = load_experiment(here / "config.yaml").values()
results = survival(sensitivity_study(config, here / "runs", models=here.parent / "focus" / "runs")).round(4)
write_text(here / "results.csv", results.to_csv(index=False))
fill_block(here / "README.md", "survival", to_markdown(survival_table(results).set_index("varied")))
survival_map(results).write_html(here / "figure.html", include_plotlyjs="cdn")
