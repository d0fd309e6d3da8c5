"""Is it erased? See README.md beside this file.

    python -m experiments.recovery.run [config.yaml [SEED ...]]    # these seeds of the configuration only

Finished cells are kept in runs/ and not run again. Writes results.csv, figure.html and the tables of README.md; for
another configuration, `config-NAME.yaml`, results-NAME.csv and figure-NAME.html.
"""

import sys
from pathlib import Path

import pandas as pd

import unpact_lens as ul
from experiments.shared.blocks import fill_block
from experiments.shared.experiment import load_experiment
from experiments.shared.probes_figure import method_by_probe
from unpact_lens.evaluation import to_markdown
from unpact_lens.results import write_text
from unpact_lens.study import by_probe, probes_over_seeds

here = Path(__file__).parent
config = here / (sys.argv[1] if len(sys.argv) > 1 else "config.yaml")
name = config.stem.removeprefix("config")
seeds = tuple(map(int, sys.argv[2:]))
frames = []
for variant, study in load_experiment(config, seeds).items():
    found = ul.run_study(study, here / "runs" / f"{variant.replace(' ', '-')}{name}")
    frames.append(probes_over_seeds(found).assign(variant=variant))
results = pd.concat(frames).round(4)
write_text(here / f"results{name}.csv", results.to_csv(index=False))
fill_block(here / "README.md", f"excess{name}", to_markdown(by_probe(results, "excess").set_index("probe")))
title = f"What comes back, beyond the {'retrain model' if found.control else 'wrong subject'}"
method_by_probe(results, title=title).write_html(here / f"figure{name}.html", include_plotlyjs="cdn")
