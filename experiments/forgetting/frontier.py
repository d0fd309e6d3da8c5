"""Measure the unseen near facts lost as more is forgotten, along training; see README.md beside this file.

    python -m experiments.forgetting.frontier smollm2 npo_gdr unpact_blind_gdr    # methods of ../settings-smollm2.yaml

The weight of the retain term is twice the value that the search found. Each run takes 120 steps in fp32, or stops at
the forget level. Finished runs are kept in runs/ and are not run again. The command writes frontier-NAME.csv,
frontier-NAME.svg and the table `frontier-NAME` of README.md.
"""

from pathlib import Path

import pandas as pd
import torch

import unpact_lens as ul
from experiments.forgetting.destruction_figures import frontier
from experiments.shared.command_line import arguments
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown
from unpact_lens.unlearning import StopRule
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.settings import Settings

STEPS, EVERY, LEVEL, SEED = 120, 10, 0.02, 0

name, *methods = arguments(__doc__)
torch.set_num_threads(1)
here = Path(__file__).parent
settings = tuned_settings(here.parent / f"settings-{name}.yaml")
kept = {method: here / "runs" / f"frontier-{name}" / f"{method}.csv" for method in methods}
missing = [method for method in methods if not kept[method].is_file()]
if missing:
    model = ul.load_model(name, wrap="bridge")
    bench = ul.evaluation.known_facts(model, ul.load_benchmark("facts", relations="all"))
    near = FactsKnown(model, bench.unseen.near, Settings(max_new_tokens=bench.max_new_tokens))
for method in missing:
    heavier = {"alpha": 2 * settings[method]["alpha"]}
    given = settings[method] | heavier | {"steps": STEPS, "check_every": EVERY, "precision": "full"}
    u = ul.unlearn(
        model, bench, method=method, seed=SEED, stop_at=StopRule(LEVEL, 0.0), retain_score=near, progress=False, **given
    )
    rows = [
        {"method": method, "step": r["step"], "F": 1 - r["forget_score"], "D_near": 1 - r["retain_score"]}
        for r in u.history.rows
        if "retain_score" in r
    ]
    write_text(kept[method], pd.DataFrame(rows).round(4).to_csv(index=False))
found = pd.concat([pd.read_csv(path) for path in kept.values()], ignore_index=True)
write_text(here / f"frontier-{name}.csv", found.to_csv(index=False))
fill_block(here / "README.md", f"frontier-{name}", to_markdown(found.set_index("method")))
frontier(found).save(here / f"frontier-{name}.svg")
