"""The same small search for every method, on facts that no experiment reports.

    python experiments/tune.py            # writes experiments/settings.yaml; methods that stand there are not run again

What plays the forget set here are facts about other authors, from the retain set of the embedded world. The seed is
none of those that the experiments use.
"""

from dataclasses import replace
from pathlib import Path

import torch
import yaml

import unpact_lens as ul
from unpact_lens.results import write_text

METHODS = (
    "ga", "npo", "ga_gdr", "npo_gdr", "unpact_select_gdr", "rmu", "unpact_select", "unpact_select_npo",
    "unpact_select_npo_gdr", "simnpo", "simnpo_gdr", "unpact_select_simnpo", "unpact_select_simnpo_gdr",
)  # fmt: skip
BUDGET, LEVEL, SEED = 6, 0.02, 100
FIXED = {"steps": 150, "batch_size": 32, "check_every": 3}
SPACE = {"lr": (1e-4, 1e-3), "alpha": (0.5, 10.0)}

torch.set_num_threads(1)  # fastest for a tiny model, and what the experiments use
out = Path(__file__).parent / "settings.yaml"
found = yaml.safe_load(out.read_text(encoding="utf-8")) if out.is_file() else {}
model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
subjects = list(dict.fromkeys(q.subject for q in bench.far))[: len({q.subject for q in bench.forget})]
stand_in = replace(
    bench,
    forget=tuple(q for q in bench.far if q.subject in subjects),
    retain=tuple(q for q in bench.retain if q.subject not in subjects),
)
for method in METHODS:
    if method in found:
        continue
    space = {k: v for k, v in SPACE.items() if k == "lr" or method.endswith(("_gdr", "_klr"))}
    tuned = ul.tune(method, model, stand_in, budget=BUDGET, level=LEVEL, space=space, seed=SEED, **FIXED)
    best = {k: float(f"{v:.3g}") for k, v in tuned.best.items()}
    found[method] = {**FIXED, **best, "search": {"destroyed": round(tuned.value, 3), "trials": len(tuned.trials)}}
    write_text(out, yaml.safe_dump(found, sort_keys=False))
