"""Measure destruction against the share of penalised answer tokens; see README.md beside this file.

    python -m experiments.forgetting.shares

The other tokens of each answer are not trained. The hyperparameters are those that the search found for the loss on all
tokens, with twice the steps, because fewer tokens take longer. Finished runs are kept in runs/ and are not run again.
The command writes shares.csv, shares.svg and the table `shares` of README.md.
"""

from pathlib import Path
from types import SimpleNamespace

import torch

import unpact_lens as ul
from experiments.forgetting.destruction_figures import destruction_by_share
from experiments.forgetting.scored import scored
from experiments.shared.command_line import arguments
from experiments.shared.destruction_over_seeds import destruction_over_seeds
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block
from unpact_lens.evaluation import Scores
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

LOSSES = {
    "ga": "unpact_select",
    "npo": "unpact_select_npo",
    "ga_gdr": "unpact_select_gdr",
    "npo_gdr": "unpact_select_npo_gdr",
}
SHARES, PICKS, SEEDS = (0.15, 0.3, 0.5, 1.0), ("key", "chance"), (0, 1, 2)
LEVEL, STEPS = 0.02, 300

arguments(__doc__)
torch.set_num_threads(1)
here = Path(__file__).parent
settings = tuned_settings(here.parent / "settings.yaml")
model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
arms = [(loss, share, pick) for loss in LOSSES for share in SHARES for pick in PICKS if share < 1 or pick == "key"]


def name(loss: str, share: float, pick: str) -> str:
    """Name one row of the table. With all tokens there is no pick."""
    return f"{loss}, {share:g} by {pick}" if share < 1 else f"{loss}, all"


def scores(loss: str, share: float, pick: str, seed: int) -> Scores:
    """Score one run."""
    return scored(
        here / "runs" / "shares" / f"{loss}-{share:g}-{pick}-seed{seed}", model, bench, LOSSES[loss],
        share=share, pick=pick, keep_rest=0.0, seed=seed, stop_at=LEVEL, **settings[loss] | {"steps": STEPS},
    )  # fmt: skip


cells = []
for loss, share, pick in arms:
    cells += [SimpleNamespace(method=name(loss, share, pick), scores=scores(loss, share, pick, s)) for s in SEEDS]
against = {name(*arm): name(arm[0], 1.0, "key") for arm in arms if arm[1] < 1}
results = destruction_over_seeds(SimpleNamespace(cells=tuple(cells)), against).round(4)
for position, column in enumerate(("loss", "share", "pick")):
    results.insert(position, column, [arm[position] for arm in arms])
write_text(here / "shares.csv", results.to_csv(index=False))
shown = results.drop(columns=["loss", "share", "pick", "seeds", "against"])
fill_block(here / "README.md", "shares", to_markdown(shown.set_index("method")))
destruction_by_share(results).save(here / "shares.svg")
