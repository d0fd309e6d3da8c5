"""Compare the candidates for a method that forgets without destroying what it never saw.

    python -m experiments.candidates.run             # all cells
    python -m experiments.candidates.run SEED ...    # some seeds

`--jobs N` runs the cells in N processes. Finished cells are kept in runs/ and are not run again. The command writes
results.csv, gaps.csv, figure.svg and the tables of README.md.
"""

from pathlib import Path

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from experiments.shared.dilemma_tables import write_dilemma
from experiments.shared.experiment import load_experiment

if __name__ == "__main__":
    here = Path(__file__).parent
    seeds = tuple(map(int, arguments(__doc__)))
    (config,) = load_experiment(here / "config.yaml", seeds).values()
    write_dilemma(ul.run_study(config, here / "runs", jobs=jobs()), here)
