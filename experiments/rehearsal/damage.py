"""Find where the loss is: which components carry the change of forgotten facts, and which that of unseen facts.

    python -m experiments.rehearsal.damage

Reads the models of run.py. For each fact, the change of the logit of the fact's first token is split into the model's
components exactly. The command writes damage.csv and the tables of README.md.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

import unpact_lens as ul
from experiments.shared.command_line import arguments
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.data.benchmark import QA
from unpact_lens.evaluation.answers import fact_tokens
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import encode
from unpact_lens.results import write_text
from unpact_lens.stats import mean_interval
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent
METHODS = ("npo_gdr", "npo_self")


def changes(before: HookedModel, after: HookedModel, qa: QA) -> dict[str, float]:
    """Return the change of the logit of the fact's first token, in all and by component, logits."""
    at = fact_tokens(before, encode(before, qa.prompt, qa.answer), qa)[0]
    first, then = (ul.decompose(model, qa.prompt, qa.answer, by="component") for model in (before, after))
    moved: Float[Tensor, " component"] = (then.values - first.values)[:, at]
    return {"all": float((then.total - first.total)[at]), **dict(zip(first.labels[0], moved.tolist(), strict=True))}


def main() -> None:
    """Measure all models of the study."""
    arguments(__doc__)
    torch.set_num_threads(1)
    (study,) = load_experiment(HERE / "config.yaml").values()
    before, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
    groups = {"forget": bench.forget, "unseen near": bench.unseen.near, "unseen far": bench.unseen.far}
    rows = []
    for method in METHODS:
        for seed in study.seeds:
            after = ul.load_model(HERE / "runs" / "models" / f"{method}-seed{seed}")
            for group, facts in groups.items():
                for qa in facts:
                    found = changes(before, after, qa)
                    rows.append(
                        {"method": method, "seed": seed, "group": group, "subject": qa.subject, "id": qa.id, **found}
                    )
    every = pd.DataFrame(rows)
    parts = [c for c in every if c not in ("method", "seed", "group", "subject", "id")]
    summary = []
    for (method, group), chosen in every.groupby(["method", "group"], sort=False):
        subjects = list(chosen[chosen.seed == study.seeds[0]].subject)
        row = {"method": method, "group": group, "facts": len(subjects)}
        for part in parts:
            values = torch.tensor(chosen[part].to_numpy()).reshape(len(study.seeds), -1)  # [seed, fact]
            low, high = mean_interval(values, subjects)
            row[part] = f"{float(values.mean()):.2f} [{low:.2f}, {high:.2f}]"
        summary.append(row)
    facts = every.groupby(["method", "group", "subject", "id"], sort=False)[parts].mean().reset_index()
    means = facts.groupby(["method", "group"], sort=False)[parts[1:]].mean()
    alike = [
        {
            "method": method,
            "groups": f"forget and {group}",
            "rank correlation over components": round(
                float(spearmanr(means.loc[method, "forget"], means.loc[method, group])[0]), 2
            ),
            "components": len(parts) - 1,
        }
        for method in METHODS
        for group in ("unseen near", "unseen far")
    ]
    write_text(HERE / "damage.csv", facts.round(4).to_csv(index=False))
    fill_block(HERE / "README.md", "damage", to_markdown(pd.DataFrame(summary).set_index("method")))
    fill_block(HERE / "README.md", "alike", to_markdown(pd.DataFrame(alike).set_index("method")))


if __name__ == "__main__":
    main()
