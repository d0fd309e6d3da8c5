"""Does unlearning disrupt focus on the key words? See README.md beside this file.

    python experiments/focus/run.py

Finished models and looks are kept in runs/ and not made again. Writes results.csv, trajectory.csv,
trained.csv, figure.html and the tables of README.md.
"""

from pathlib import Path

from unpact_lens.evaluation import to_markdown
from unpact_lens.plots.focus_controls import focus_controls
from unpact_lens.report import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import FOCUS_TABLES, focus_over_seeds, focus_study, load_experiment

here = Path(__file__).parent
(config,) = load_experiment(here / "config.yaml").values()
found = focus_study(config, here / "runs")
results, trajectory = focus_over_seeds(found.shifts).round(4), found.trajectory_frame().round(4)
write_text(here / "results.csv", results.to_csv(index=False))
write_text(
    here / "trajectory.csv", trajectory[trajectory["measure"].isin(["overlap", "mass_shift"])].to_csv(index=False)
)
trained = found.trained_frame()
write_text(here / "trained.csv", trained.to_csv(index=False))
fill_block(here / "README.md", "trained", to_markdown(trained.set_index("model")))
for block, table in FOCUS_TABLES.items():
    fill_block(here / "README.md", block, to_markdown(table(results).set_index("model")))
focus_controls(results, trajectory).write_html(here / "figure.html", include_plotlyjs="cdn")
