"""Does destruction come from penalising all tokens? See README.md beside this file.

    python experiments/forgetting/run.py

Finished cells are kept in ../dilemma/runs, whose study this is, and not run again. Writes results.csv, figure.html and
the table of README.md.
"""

from pathlib import Path

import unpact_lens as ul
from unpact_lens.evaluation import to_markdown
from unpact_lens.plots.probes import spared_bars
from unpact_lens.report import fill_block
from unpact_lens.results import write_text
from unpact_lens.study import destruction_over_seeds, load_experiment

here = Path(__file__).parent
(config,) = load_experiment(here / "config.yaml").values()
against = {}  # each selective method beside the same loss on all tokens
for method in config.methods:
    if method.name.startswith("unpact_select"):
        rest = method.name.removeprefix("unpact_select").removeprefix("_")
        against[method.name] = "ga" if not rest else "ga_gdr" if rest == "gdr" else rest
results = destruction_over_seeds(ul.run_study(config, here.parent / "dilemma" / "runs"), against).round(4)
write_text(here / "results.csv", results.to_csv(index=False))
fill_block(here / "README.md", "spared", to_markdown(results.set_index("method")))
spared_bars(results).write_html(here / "figure.html", include_plotlyjs="cdn")
