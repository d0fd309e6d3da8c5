"""Test which conclusions survive another rule, method, metric or wording; see README.md beside this file.

    python -m experiments.sensitivity.run                       # the embedded model
    python -m experiments.sensitivity.run smollm2 [SEED ...]

The command loads the unlearned models in ../focus/runs/, or makes them. Finished choices are kept in runs/. It writes
results.csv, figure.svg and the table of README.md; for SmolLM2, `-smollm2` is added to these names. The metric
`semantic_similarity` needs the extra `semantic`.
"""

from pathlib import Path

from experiments.sensitivity.sensitivity_study import sensitivity_study
from experiments.sensitivity.survival import survival, survival_table
from experiments.sensitivity.survival_map import survival_map
from experiments.shared.command_line import arguments
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

here = Path(__file__).parent
given = arguments(__doc__)
name = f"-{given[0]}" if given else ""
folder = name.removeprefix("-")
(config,) = load_experiment(here / f"config{name}.yaml", tuple(map(int, given[1:]))).values()
found = sensitivity_study(
    config,
    here / "runs" / folder,
    models=here.parent / "focus" / "runs" / folder,
    track_every=50 if name else 3,  # equal to ../focus/run.py, because the models depend on it
)
results = survival(found).round(4)
write_text(here / f"results{name}.csv", results.to_csv(index=False))
fill_block(here / "README.md", f"survival{name}", to_markdown(survival_table(results).set_index("varied")))
survival_map(results).save(here / f"figure{name}.svg")
