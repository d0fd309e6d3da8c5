"""Compare methods that rehearse what the original model wrote with the same methods on a given retain set.

    python -m experiments.rehearsal.run             # all cells
    python -m experiments.rehearsal.run SEED ...    # some seeds

`--jobs N` runs the cells in N processes. Finished cells are kept in runs/ and are not run again. The command writes
results.csv, gaps.csv, figure.svg and the tables of README.md.
"""

from pathlib import Path

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from experiments.shared.dilemma_tables import write_dilemma
from experiments.shared.experiment import load_experiment

here = Path(__file__).parent
seeds = tuple(map(int, arguments(__doc__)))
(config,) = load_experiment(here / "config.yaml", seeds).values()
study = ul.run_study(config, here / "runs", jobs=jobs())
write_dilemma(study, here)
