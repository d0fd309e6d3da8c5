"""How much of the near facts goes as more is forgotten, along training? See README.md beside this file.

    python -m experiments.forgetting.frontier smollm2 npo_gdr unpact_blind_gdr    # methods of ../settings-smollm2.yaml

With twice the weight of the retain term that the search found, 120 steps, in fp32; a run ends at the forget level.
Finished runs are kept in runs/ and not made again. Writes frontier-NAME.csv, frontier-NAME.html and the table
`frontier-NAME` of README.md.
"""

import sys
from pathlib import Path

import pandas as pd
import torch

import unpact_lens as ul
from experiments.forgetting.shares_figure import frontier
from experiments.shared.blocks import fill_block
from experiments.shared.experiment import tuned_settings
from unpact_lens.evaluation import to_markdown
from unpact_lens.results import write_text
from unpact_lens.unlearning import StopRule
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.settings import Settings

STEPS, EVERY, LEVEL, SEED = 120, 10, 0.02, 0

torch.set_num_threads(1)
here, name, methods = Path(__file__).parent, sys.argv[1], sys.argv[2:]
settings = tuned_settings(here.parent / f"settings-{name}.yaml")
kept = {method: here / "runs" / f"frontier-{name}" / f"{method}.csv" for method in methods}
missing = [method for method in methods if not kept[method].is_file()]
if missing:
    model = ul.load_model(name, wrap="bridge")
    bench = ul.known_facts(model, ul.load_benchmark("facts", relations="all"))
    near = FactsKnown(model, bench.near, Settings(max_new_tokens=bench.max_new_tokens))
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
frontier(found).write_html(here / f"frontier-{name}.html", include_plotlyjs="cdn")
