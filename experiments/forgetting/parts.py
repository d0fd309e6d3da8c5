"""Find out why unpact_select_gdr loses more than ga_gdr; see README.md beside this file.

    python -m experiments.forgetting.parts

The two methods differ in the penalised tokens, in whether the other tokens are trained to stay, and in their
hyperparameters. The command runs every combination, each with twice the steps of the search. Finished runs are kept in
runs/ and are not run again. It writes parts.csv and the table `parts` of README.md.
"""

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import torch

import unpact_lens as ul
from experiments.forgetting.scored import scored
from experiments.shared.command_line import arguments
from experiments.shared.destruction_over_seeds import destruction_over_seeds
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

METHOD, BASE = "unpact_select_gdr", "ga_gdr"
TOKENS = {"all alike": {"share": 1.0}, "0.15 by key": {"share": 0.15}, "by dependence": {"share": None}}
KEEP_REST, SEEDS = (0.0, 1.0), (0, 1, 2)
LEVEL, STEPS = 0.02, 300

arguments(__doc__)
torch.set_num_threads(1)
here = Path(__file__).parent
settings = tuned_settings(here.parent / "settings.yaml")
model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
arms = [
    (tokens, keep, whose)
    for whose, tokens, keep in product((BASE, METHOD), TOKENS, KEEP_REST)
    if not (tokens == "all alike" and keep)  # no other tokens are left
]


def name(tokens: str, keep: float, whose: str) -> str:
    """Name one row of the table."""
    return f"{tokens}{', rest kept' if keep else ''}, settings of {whose}"


cells = []
for tokens, keep, whose in arms:
    for seed in SEEDS:
        kept = here / "runs" / "parts" / f"{tokens.replace(' ', '-')}-{keep:g}-{whose}-seed{seed}"
        given = {**settings[whose], **TOKENS[tokens], "steps": STEPS, "keep_rest": keep}
        scores = scored(kept, model, bench, METHOD, seed=seed, stop_at=LEVEL, **given)
        cells.append(SimpleNamespace(method=name(tokens, keep, whose), scores=scores))
first = name(*arms[0])
against = {name(*arm): first for arm in arms[1:]}
results = destruction_over_seeds(SimpleNamespace(cells=tuple(cells)), against).round(4)
write_text(here / "parts.csv", results.to_csv(index=False))
fill_block(here / "README.md", "parts", to_markdown(results.drop(columns=["seeds", "against"]).set_index("method")))
