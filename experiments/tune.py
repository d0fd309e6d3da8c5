"""Search the hyperparameters of every method with the same small budget, on facts that no experiment reports.

    python -m experiments.tune                   # writes experiments/settings.yaml
    python -m experiments.tune smollm2           # writes experiments/settings-smollm2.yaml
    python -m experiments.tune smollm2 ga npo    # only these methods
    python -m experiments.tune rehearsal         # writes experiments/settings-rehearsal.yaml, for rehearsal/

Methods that are already in the file are not searched again. The stand-in forget set holds facts about other subjects,
taken from the trained part of the retain set: authors of the embedded world, or countries that the real model knows.
Destruction is scored on the validation part; no search touches the unseen part. For the real model, the facts that the
experiments forget join the facts to keep. No experiment uses the seed of the search. Every search is kept in `tuning/`
with its trials.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import yaml

import unpact_lens as ul
from unpact_lens.results import write_text

SELECTIVE = tuple(
    f"unpact_{loss}{retain}" for loss in ("select", "select_npo", "select_simnpo", "blind") for retain in ("", "_gdr")
)
PLANS = {
    "builtin": {
        "methods": (
            "ga",
            "npo",
            "npo_gdr",
            "unpact_select_gdr",
            "unpact_blind_gdr",
            "ga_gdr",
            "rmu",
            "simnpo",
            "simnpo_gdr",
            *SELECTIVE,
        ),
        "budget": 6,
        "fixed": {"steps": 150, "batch_size": 32, "check_every": 3},
        "space": {"lr": (1e-4, 1e-3), "alpha": (0.5, 10.0)},
        # RMU trains three matrices only, which needs larger steps. Its published alpha is for d_model 4096.
        "wider": {"rmu": {"lr": (3e-4, 1e-2), "alpha": (1.0, 1200.0)}},
        "load": {},
        "matmul": "highest",
        "benchmark": {"name": "builtin"},
        "pool": "far",
        "swap": False,
    },
    "smollm2": {
        "methods": (
            "ga",
            "npo",
            "ga_gdr",
            "npo_gdr",
            "unpact_select_gdr",
            "unpact_blind_gdr",
            "npo_self",
            "unpact_blind_self",
        ),
        "budget": 4,
        "fixed": {"steps": 150, "batch_size": 8, "check_every": 5, "precision": "bf16"},
        "space": {"lr": (5e-6, 5e-5), "alpha": (0.5, 10.0)},
        "wider": {},
        "load": {"wrap": "bridge"},
        "matmul": "medium",
        "benchmark": {"name": "facts", "relations": "all"},
        "pool": "near",
        # Near facts are few. Keeping the experiments' forget facts makes the search as hard as the experiments.
        "swap": True,
    },
}
PLANS["rehearsal"] = {
    **PLANS["builtin"],
    "model": "builtin",
    "methods": ("npo_self", "npo_gdr", "simnpo_self", "simnpo_gdr", "ga_self", "ga_gdr", "unpact_blind_self"),
    "budget": 4,
    "fixed": {"steps": 300, "batch_size": 32, "check_every": 5},
    "wider": {},
}
LEVEL, SEED = 0.02, 100

given = sys.argv[1:]
if {"-h", "--help"} & set(given):
    print((__doc__ or "").strip())
    sys.exit(0)
which = given[0] if given else "builtin"
plan = PLANS[which]
here = Path(__file__).parent
torch.set_num_threads(1)  # fastest for a tiny model, and equal to the experiments
torch.set_float32_matmul_precision(plan["matmul"])
out = here / ("settings.yaml" if which == "builtin" else f"settings-{which}.yaml")
found = yaml.safe_load(out.read_text(encoding="utf-8")) if out.is_file() else {}
source = plan.get("model", which)
model = ul.load_model(source, **plan["load"])
bench = ul.load_benchmark(**plan["benchmark"])
if source != "builtin":
    bench = ul.evaluation.known_facts(model, bench)
pool = getattr(bench.retain, plan["pool"])
subjects = list(dict.fromkeys(q.subject for q in pool))[: len({q.subject for q in bench.forget})]
stand_in = replace(
    bench,
    forget=tuple(q for q in pool if q.subject in subjects),
    retain=(*(q for q in bench.retain if q.subject not in subjects), *(bench.forget if plan["swap"] else ())),
    unseen=(),
)
for method in given[1:] or plan["methods"]:
    if method in found:
        continue
    space = {k: v for k, v in plan["space"].items() if k == "lr" or method.endswith(("_gdr", "_klr", "_self"))}
    space |= plan["wider"].get(method, {})
    tuned = ul.unlearning.tune(
        method, model, stand_in, budget=plan["budget"], level=LEVEL, space=space, seed=SEED, **plan["fixed"]
    )
    tuned.save(here / "tuning" / which / method)
    best = {k: float(f"{v:.3g}") for k, v in tuned.best.items()}
    found[method] = {
        **plan["fixed"],
        **best,
        "search": {"destroyed": round(tuned.value, 3), "trials": len(tuned.trials)},
    }
    write_text(out, yaml.safe_dump(found, sort_keys=False))
