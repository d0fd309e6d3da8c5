"""Test whether forgotten facts are erased; see README.md beside this file.

    python -m experiments.recovery.run [config.yaml [SEED ...]]    # with SEED: only these seeds of the configuration

`--jobs N` runs the cells in N processes.

Finished cells are kept in runs/ and are not run again. The command writes results.csv, figure.svg and the tables of
README.md. For another configuration, `config-NAME.yaml`, it writes results-NAME.csv and figure-NAME.svg.
"""

from pathlib import Path

import pandas as pd

import unpact_lens as ul
from experiments.recovery.method_by_probe import method_by_probe
from experiments.shared.command_line import arguments, jobs
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import by_probe, probes_over_seeds
from unpact_lens.text_tables import to_markdown

here = Path(__file__).parent
given = arguments(__doc__)
config = here / (given[0] if given else "config.yaml")
name = config.stem.removeprefix("config")
seeds = tuple(map(int, given[1:]))
frames = []
for variant, study in load_experiment(config, seeds).items():
    found = ul.run_study(study, here / "runs" / f"{variant.replace(' ', '-')}{name}", jobs=jobs())
    frames.append(probes_over_seeds(found).assign(variant=variant))
results = pd.concat(frames).round(4)
write_text(here / f"results{name}.csv", results.to_csv(index=False))
fill_block(here / "README.md", f"excess{name}", to_markdown(by_probe(results, "excess").set_index("probe")))
title = f"Excess over the {'retrained model' if found.control else 'wrong subject'}"
method_by_probe(results, title=title).save(here / f"figure{name}.svg")
