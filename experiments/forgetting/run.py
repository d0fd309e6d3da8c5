"""Does destruction come from penalising all tokens? See README.md beside this file.

    python -m experiments.forgetting.run            # the embedded model: the study of ../dilemma
    python -m experiments.forgetting.run smollm2 [SEED ...]    # the study of ../recovery/config-smollm2.yaml

Finished cells are kept in the runs/ of the study that this is, and not run again. Writes results.csv, figure.html and
the table of README.md; for another study, `-NAME` follows each of these names.
"""

import sys
from pathlib import Path

import unpact_lens as ul
from experiments.shared.blocks import fill_block
from experiments.shared.destruction import destruction_over_seeds
from experiments.shared.experiment import load_experiment
from experiments.shared.probes_figure import spared_bars
from unpact_lens.evaluation import to_markdown
from unpact_lens.results import write_text

here = Path(__file__).parent
name = f"-{sys.argv[1]}" if len(sys.argv) > 1 else ""
recovery = here.parent / "recovery"
seeds = tuple(map(int, sys.argv[2:]))
(config,) = load_experiment((recovery if name else here) / f"config{name}.yaml", seeds).values()
runs = recovery / "runs" / f"one-phrasing{name}" if name else here.parent / "dilemma" / "runs"
against = {}  # each selective method beside the same loss on all tokens
for method in config.methods:
    if method.name.startswith("unpact_select"):
        rest = method.name.removeprefix("unpact_select").removeprefix("_")
        against[method.name] = "ga" if not rest else "ga_gdr" if rest == "gdr" else rest
results = destruction_over_seeds(ul.run_study(config, runs), against).round(4)
write_text(here / f"results{name}.csv", results.to_csv(index=False))
fill_block(here / "README.md", f"spared{name}", to_markdown(results.set_index("method")))
spared_bars(results).write_html(here / f"figure{name}.html", include_plotlyjs="cdn")
