"""Find the methods that forget without destroying and without hiding; see README.md beside this file.

    python -m experiments.dilemma.run                       # the embedded model
    python -m experiments.dilemma.run smollm2 [SEED ...]    # the study of ../recovery/config-smollm2.yaml

`--jobs N` runs the cells in N processes.

Finished cells are kept in runs/ and are not run again. The command writes results.csv, kinds.csv, gaps.csv, figure.svg
and the tables of README.md; for another study, `-NAME` is added to these names.
"""

from pathlib import Path

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from experiments.shared.dilemma_tables import write_dilemma
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.study import dilemma_by_kind
from unpact_lens.text_tables import to_markdown

here = Path(__file__).parent
given = arguments(__doc__)
name = f"-{given[0]}" if given else ""
recovery = here.parent / "recovery"
seeds = tuple(map(int, given[1:]))
(config,) = load_experiment((recovery if name else here) / f"config{name}.yaml", seeds).values()
runs = recovery / "runs" / f"one-phrasing{name}" if name else here / "runs"
study = ul.run_study(config, runs, jobs=jobs())
kinds = dilemma_by_kind(study).round(4)
# The distance is undefined if no near or far fact is of a kind that is forgotten.
write_dilemma(study, here, name, {"kinds": kinds} if kinds["distance"].notna().any() else None)
for paper in ("muse-news", "muse-books", "tofu-forget10"):
    fill_block(here / "README.md", paper, to_markdown(ul.evaluation.published(paper).to_frame()))
