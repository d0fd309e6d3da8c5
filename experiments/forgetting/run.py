"""Test whether destruction comes from penalising all tokens; see README.md beside this file.

    python -m experiments.forgetting.run                       # the embedded model: the study of ../dilemma
    python -m experiments.forgetting.run smollm2 [SEED ...]    # the study of ../recovery/config-smollm2.yaml

`--jobs N` runs the cells in N processes.

Finished cells are kept in the runs/ directory of that study and are not run again. The command writes results.csv,
figure.svg and the table of README.md; for another study, `-NAME` is added to these names.
"""

from pathlib import Path

import unpact_lens as ul
from experiments.forgetting.destruction_figures import spared_bars
from experiments.shared.command_line import arguments, jobs
from experiments.shared.destruction_over_seeds import destruction_over_seeds
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

here = Path(__file__).parent
given = arguments(__doc__)
name = f"-{given[0]}" if given else ""
recovery = here.parent / "recovery"
seeds = tuple(map(int, given[1:]))
(config,) = load_experiment((recovery if name else here) / f"config{name}.yaml", seeds).values()
runs = recovery / "runs" / f"one-phrasing{name}" if name else here.parent / "dilemma" / "runs"
against = {}  # baseline of each selective method: the same loss on all tokens
for method in config.methods:
    if method.name.startswith("unpact_select"):
        rest = method.name.removeprefix("unpact_select").removeprefix("_")
        against[method.name] = "ga" if not rest else "ga_gdr" if rest == "gdr" else rest
results = destruction_over_seeds(ul.run_study(config, runs, jobs=jobs()), against).round(4)
write_text(here / f"results{name}.csv", results.to_csv(index=False))
fill_block(here / "README.md", f"spared{name}", to_markdown(results.set_index("method")))
spared_bars(results).save(here / f"figure{name}.svg")
