"""Compare methods that rehearse what the original model wrote with the same methods on a given retain set.

    python -m experiments.rehearsal.run             # all cells
    python -m experiments.rehearsal.run SEED ...    # some seeds

`--jobs N` runs the cells in N processes. Finished cells are kept in runs/ and are not run again. The command writes
results.csv, gaps.csv, figure.html and the tables of README.md.
"""

from pathlib import Path

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import dilemma, distance_gaps, estimates
from unpact_lens.text_tables import to_markdown

here = Path(__file__).parent
seeds = tuple(map(int, arguments(__doc__)))
(config,) = load_experiment(here / "config.yaml", seeds).values()
study = ul.run_study(config, here / "runs", jobs=jobs())
found = dilemma(study)
results = found.to_frame().sort_values("distance").round(4)
gaps = distance_gaps(study, results["method"].iloc[0]).round(4)
for name, frame in (("results", results), ("gaps", gaps)):
    write_text(here / f"{name}.csv", frame.to_csv(index=False))
    fill_block(here / "README.md", name, to_markdown(estimates(frame).set_index("method")))
found.plot().write_html(here / "figure.html", include_plotlyjs="cdn")
