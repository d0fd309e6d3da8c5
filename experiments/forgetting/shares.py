"""How much is destroyed as more of each answer is penalised? See README.md beside this file.

    python -m experiments.forgetting.shares

The rest of each answer is left alone. Settings are those that the search found for the loss on all tokens, but with
twice the steps, since fewer tokens take longer. Finished runs are kept in runs/ and not made again. Writes shares.csv,
shares.html and the table `shares` of README.md.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from scored import scored

import unpact_lens as ul
from experiments.forgetting.shares_figure import destruction_by_share
from experiments.shared.blocks import fill_block
from experiments.shared.destruction import destruction_over_seeds
from experiments.shared.experiment import tuned_settings
from unpact_lens.evaluation import Scores, to_markdown
from unpact_lens.results import write_text

LOSSES = {
    "ga": "unpact_select",
    "npo": "unpact_select_npo",
    "ga_gdr": "unpact_select_gdr",
    "npo_gdr": "unpact_select_npo_gdr",
}
SHARES, PICKS, SEEDS = (0.15, 0.3, 0.5, 1.0), ("key", "chance"), (0, 1, 2)
LEVEL, STEPS = 0.02, 300

torch.set_num_threads(1)
here = Path(__file__).parent
settings = tuned_settings(here.parent / "settings.yaml")
model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
arms = [(loss, share, pick) for loss in LOSSES for share in SHARES for pick in PICKS if share < 1 or pick == "key"]


def name(loss: str, share: float, pick: str) -> str:
    """One row of the table; with all tokens there is nothing to pick."""
    return f"{loss}, {share:g} by {pick}" if share < 1 else f"{loss}, all"


def scores(loss: str, share: float, pick: str, seed: int) -> Scores:
    """Scores of one run."""
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
destruction_by_share(results).write_html(here / "shares.html", include_plotlyjs="cdn")
