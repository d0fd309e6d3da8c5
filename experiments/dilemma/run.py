"""Which method forgets without destroying and without hiding? See README.md beside this file.

    python experiments/dilemma/run.py

Finished cells are kept in runs/ and not run again. Writes results.csv, kinds.csv, gaps.csv, figure.html and the tables
of README.md.
"""

from pathlib import Path

import unpact_lens as ul
from unpact_lens.evaluation import to_markdown
from unpact_lens.report import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import dilemma, dilemma_by_kind, distance_gaps, estimates, kinds_table, load_experiment

here = Path(__file__).parent
(config,) = load_experiment(here / "config.yaml").values()
study = ul.run_study(config, here / "runs")
found, kinds = dilemma(study), dilemma_by_kind(study).round(4)
results = found.to_frame().sort_values("distance").round(4)
nearest = results["method"].iloc[0]
gaps = distance_gaps(study, nearest).round(4)
for name, frame in (("results", results), ("kinds", kinds), ("gaps", gaps)):
    write_text(here / f"{name}.csv", frame.to_csv(index=False))
    table = kinds_table(frame) if name == "kinds" else estimates(frame).set_index("method")
    fill_block(here / "README.md", name, to_markdown(table))
for name in ("muse-news", "muse-books", "tofu-forget10"):
    fill_block(here / "README.md", name, to_markdown(ul.published(name).to_frame()))
found.plot().write_html(here / "figure.html", include_plotlyjs="cdn")
