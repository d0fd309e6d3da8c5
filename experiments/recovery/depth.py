"""Measure how deep the facts are erased: sampling, logit lens, patching and unlearning depth of the models of run.py.

    python -m experiments.recovery.depth

The command writes depth.csv, and the table `depth` of README.md (means over seeds). A row with the same weights is not
computed again.
"""

from pathlib import Path

import pandas as pd
import torch

import unpact_lens as ul
from experiments.shared.command_line import arguments
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.comparison import unlearning_depth
from unpact_lens.evaluation import fact_right
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.recovery import leak_emphasised, lens_ranks, patched_answers, unrelated_fact
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

FACTS, SAMPLES = 32, 16  # number of facts; number of answers sampled for each at temperature 1

arguments(__doc__)
torch.set_num_threads(1)
here = Path(__file__).parent
out = here / "depth.csv"
kept = pd.read_csv(out, keep_default_na=False).to_dict("records") if out.is_file() else []
done = {(r["variant"], r["method"], r["seed"], r["weights"]): r for r in kept}
before, control, bench = ul.load_model("builtin"), ul.load_model("builtin-retrain"), ul.load_benchmark("builtin")
studies = load_experiment(here / "config.yaml")
runs = {variant: here / "runs" / variant.replace(" ", "-") for variant in studies}
plan = ul.load(next(iter(runs.values())) / "plan")  # the prompts are equal in all variants
models = {("", "before", 0): before, ("", "retrain", 0): control}
for variant, study in studies.items():
    models |= {
        (variant, m.name, s): runs[variant] / "models" / f"{m.name}-seed{s}" for m in study.methods for s in study.seeds
    }
rows = []
for (variant, method, seed), model in models.items():
    model = ul.load_model(str(model)) if isinstance(model, Path) else model
    weights = model_hash(model)[:12]
    known = {"variant": variant, "method": method, "seed": seed, "weights": weights}
    row = done.get((variant, method, seed, weights), known)
    if "UDS" not in row:
        sampled = leak_emphasised(model, plan, limit=FACTS, samples=SAMPLES, seed=seed)
        for name, drawn in zip(("", ", emphasis", ", random words"), sampled.values(), strict=True):
            row |= {
                f"leak@1{name}": drawn.at(1), f"leak@{SAMPLES}{name}": drawn.at(SAMPLES),
                f"Prob{name}": float(drawn.probability.mean()), f"median rank{name}": float(drawn.rank.median()),
            }  # fmt: skip
        facts = [q for q in bench.forget if q.id in sampled["plain"].ids]
        early = lens_ranks(model, facts, bench=bench)[:, :-1].amin(1)
        row |= {"lens rank": float(early.median()), "UDS": unlearning_depth(before, control, model, facts).score}
    if "patched" not in row:
        facts = bench.forget[:FACTS]
        others = [unrelated_fact(q, bench.forget) for q in facts]
        for name, sources in (("patched", facts), ("patched, other fact", others)):
            said = patched_answers(model, before, facts, bench=bench, where="opening", sources=sources)
            row[name] = sum(map(fact_right, said, facts)) / len(facts)
    rows.append(row)
    write_text(out, pd.DataFrame(rows).round(4).to_csv(index=False))

table = (
    pd.DataFrame(rows)
    .round(4)  # equal to the file
    .groupby(["variant", "method"], sort=False)
    .mean(numeric_only=True)
    .drop(columns="seed")
    .round(10)  # the last bit of a mean differs between versions of pandas
    .reset_index()
)
fill_block(here / "README.md", "depth", to_markdown(table.set_index("method")))
