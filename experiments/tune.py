"""Search the hyperparameters of every method with the same small budget, on facts that no experiment reports.

    python -m experiments.tune                   # writes experiments/settings.yaml
    python -m experiments.tune smollm2           # writes experiments/settings-smollm2.yaml
    python -m experiments.tune smollm2 ga npo    # only these methods
    python -m experiments.tune rehearsal         # writes experiments/settings-rehearsal.yaml, for rehearsal/
    python -m experiments.tune candidates        # writes experiments/settings-candidates.yaml, for candidates/
    python -m experiments.tune smollm2-rehearsal # writes experiments/settings-smollm2-rehearsal.yaml, for rehearsal/

`--jobs N` runs the searches in N processes.

Methods that are already in the file are not searched again. The stand-in forget set holds facts about other subjects,
taken from the trained part of the retain set: authors of the embedded world, or countries that the real model knows.
Destruction is scored on the validation part; no search touches the unseen part. For the real model, the facts that the
experiments forget join the facts to keep. No experiment uses the seed of the search. Every search is kept in `tuning/`
with its trials. Where trials are independent, each is a draw of its own, so that they run side by side. Finished draws
are kept in runs/tuning/ and are not run again.
"""

import functools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

import unpact_lens as ul
from experiments.shared.command_line import arguments, jobs
from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.splits import Facts
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import write_text
from unpact_lens.unlearning import Tuning

SELECTIVE = tuple(
    f"unpact_{loss}{retain}" for loss in ("select", "select_npo", "select_simnpo", "blind") for retain in ("", "_gdr")
)
PLANS: dict[str, dict[str, Any]] = {
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
PLANS["candidates"] = {
    **PLANS["rehearsal"],
    "methods": (
        "npo_self", "npo_null", "npo_null_self", "npo_orthogonal", "npo_orthogonal_self", "npo_ewc", "npo_ewc_self",
        "npo_local", "npo_local_self", "npo_small", "npo_small_self", "lora_npo_self", "sam_npo_gdr", "sam_npo_self",
        "jensun", "jensun_self", "pdu", "pdu_self", "relearn_gdr", "relearn_self",
        "rmu_subject", "rmu_subject_self", "memit",
    ),
    "independent": True,
    # Ranges of a family replace or join the common ones; None removes one. Losses that move few weights, or are flat at
    # their start, need larger steps. PDU's loss is in squared logits.
    "families": {
        "npo_null": {"lr": (5e-4, 1e-2), "spare": (0.01, 0.3)},
        "npo_ewc": {"strength": (1e-3, 10.0)},
        "npo_local": {"lr": (5e-4, 1e-2), "share": (0.05, 0.5)},
        "npo_small": {"radius": (0.02, 0.2)},
        "lora_npo": {"lr": (4e-4, 4e-3)},
        "sam_npo": {"rho": (1e-3, 0.1)},
        "jensun": {"lr": (5e-4, 5e-3), "alpha": (0.2, 5.0)},
        "pdu": {"dual_step": (1.0, 100.0)},
        "relearn": {"lr": (2e-4, 2e-3)},
        "rmu_subject": {"lr": (5e-4, 1e-2)},
        "memit": {"lr": None, "hold": (0.01, 100.0), "target_lr": (0.03, 0.3)},
    },
    "given": {"lora_npo_self": {"rank": 2}},
}  # fmt: skip
PLANS["smollm2-rehearsal"] = {
    **PLANS["smollm2"],
    "model": "smollm2",
    "methods": ("npo_self", "unpact_blind_self", "npo_gdr", "unpact_blind_gdr"),
    "budget": 3,
    # A method stops when it has reached the level, so only methods that are slow to forget take all steps.
    "fixed": {**PLANS["smollm2"]["fixed"], "steps": 200},
    "space": {"lr": (5e-6, 1e-4), "alpha": (0.5, 10.0)},
    "independent": True,
}
LEVEL, SEED = 0.02, 100
HERE = Path(__file__).parent
WITH_RETAIN = ("_gdr", "_klr", "_self")
"""Ends of the names of methods whose retain term has a weight to search."""


@functools.cache
def loaded(which: str) -> tuple[HookedModel, Benchmark]:
    """Load the model of a plan and the stand-in benchmark of its search."""
    plan = PLANS[which]
    torch.set_num_threads(1)  # fastest for a tiny model, and equal to the experiments
    torch.set_float32_matmul_precision(plan["matmul"])
    source = plan.get("model", which)
    model = ul.load_model(source, **plan["load"])
    bench = ul.load_benchmark(**plan["benchmark"])
    if source != "builtin":
        bench = ul.evaluation.known_facts(model, bench)
    pool = getattr(bench.retain, plan["pool"])
    subjects = list(dict.fromkeys(q.subject for q in pool))[: len({q.subject for q in bench.forget})]
    kept = (q for q in bench.retain if q.subject not in subjects)
    stand_in = replace(
        bench,
        forget=tuple(q for q in pool if q.subject in subjects),
        retain=Facts((*kept, *(bench.forget if plan["swap"] else ()))),
        unseen=Facts(),
    )
    return model, stand_in


def space_of(plan: dict[str, Any], method: str) -> dict[str, tuple[float, float]]:
    """Return the hyperparameters of a method to search, with their ranges."""
    searched = method.endswith(WITH_RETAIN) or method in ("npo_orthogonal", "jensun", "pdu")
    space = {k: v for k, v in plan["space"].items() if k == "lr" or searched}
    for family, ranges in plan.get("families", {}).items():
        if method.startswith(family):
            space |= ranges
    space |= plan["wider"].get(method, {})
    return {k: ends for k, ends in space.items() if ends is not None}


def search(which: str, method: str, draw: int | None = None) -> Tuning:
    """Run the search of a method, or one draw of it."""
    plan = PLANS[which]
    model, bench = loaded(which)
    kept = None if draw is None else HERE / "runs" / "tuning" / which / f"{method}-{draw}"
    return ul.unlearning.tune(
        method, model, bench, budget=plan["budget"] if draw is None else 1, level=LEVEL, space=space_of(plan, method),
        seed=SEED + (draw or 0), checkpoint=kept, **plan["fixed"], **plan.get("given", {}).get(method, {}),
    )  # fmt: skip


def best_of(draws: list[Tuning]) -> Tuning:
    """Join the trials of independent draws into one search."""
    best = min(draws, key=lambda t: (not t.trials[0]["reached"], t.value))
    return replace(best, trials=tuple(trial for t in draws for trial in t.trials), seed=SEED)


def searches(which: str, methods: list[str], processes: int) -> Iterator[tuple[str, Tuning]]:
    """Yield each method with its search, in the order given."""
    independent = PLANS[which].get("independent", False)
    draws = range(PLANS[which]["budget"]) if independent else [None]
    if processes == 1:
        for method in methods:
            yield method, best_of([search(which, method, draw) for draw in draws])
        return
    # Started anew, not forked: a fork would copy the threads' locks.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        running = {(d, m): pool.submit(search, which, m, d) for d in draws for m in methods}
        for method in methods:
            yield method, best_of([running[d, method].result() for d in draws])


def main() -> None:
    """Search the methods that are not in the file yet, and write the file after each of them."""
    given = arguments(__doc__)
    which = given[0] if given else "builtin"
    plan = PLANS[which]
    out = HERE / ("settings.yaml" if which == "builtin" else f"settings-{which}.yaml")
    found = yaml.safe_load(out.read_text(encoding="utf-8")) if out.is_file() else {}
    missing = [m for m in given[1:] or plan["methods"] if m not in found]
    for method, tuned in searches(which, missing, jobs()):
        tuned.save(HERE / "tuning" / which / method)
        best = {k: float(f"{v:.3g}") for k, v in tuned.best.items()}
        found[method] = {
            **plan["fixed"],
            **plan.get("given", {}).get(method, {}),
            **best,
            "search": {"destroyed": round(tuned.value, 3), "trials": len(tuned.trials)},
        }
        write_text(out, yaml.safe_dump(found, sort_keys=False))


if __name__ == "__main__":
    main()
