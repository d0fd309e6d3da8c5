"""Test whether unlearning disrupts focus on the key words; README.md beside this file has the protocol and results.

    python -m experiments.focus.run                                  # the embedded model
    python -m experiments.focus.run smollm2 [SEED ...]               # the facts of ../recovery/config-smollm2.yaml
    python -m experiments.focus.run tofu [DIRECTORY|hub [SEED ...]]  # the models of ../tofu, from the project's root

Finished models and measurements are kept in runs/ and are not computed again. The command writes results.csv,
trajectory.csv, trained.csv, figure.svg and the tables of README.md. For the other models, `-NAME` is added to these
names.
"""

from pathlib import Path

from experiments.focus.focus_controls import focus_controls
from experiments.focus.focus_over_seeds import FOCUS_TABLES, changed_heads, focus_over_seeds
from experiments.focus.focus_study import focus_study
from experiments.shared.command_line import arguments
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

OPTIONS = {
    "": {"track_every": 3},
    "-smollm2": {"track_every": 50, "by_head": ()},
    "-tofu": {"track_every": 10, "by_head": ("forget",)},  # 270 heads, each restored alone
}

here = Path(__file__).parent
given = arguments(__doc__)
name = f"-{given[0]}" if given else ""
tofu, seeds = (given[1:2], given[2:]) if name == "-tofu" else ([], given[1:])
(config,) = load_experiment(here / f"config{name}.yaml", tuple(map(int, seeds))).values()
if tofu and tofu != ["hub"]:
    config = config.model_copy(update={"benchmark_options": {**config.benchmark_options, "path": tofu[0]}})
found = focus_study(config, here / "runs" / name.removeprefix("-"), **OPTIONS[name])
results, trajectory = focus_over_seeds(found.shifts).round(4), found.trajectory_frame().round(4)
shown = {"", *changed_heads(results, "moves_shift"), *changed_heads(results, "attends_shift")}
written = results[results["head"].isin(shown)]
write_text(here / f"results{name}.csv", written.to_csv(index=False))
write_text(
    here / f"trajectory{name}.csv",
    trajectory[trajectory["measure"].isin(["overlap", "mass_shift"])].to_csv(index=False),
)
trained = found.trained_frame()
write_text(here / f"trained{name}.csv", trained.to_csv(index=False))
fill_block(here / "README.md", f"trained{name}", to_markdown(trained.set_index("model")))
for block, table in FOCUS_TABLES.items():
    fill_block(here / "README.md", f"{block}{name}", to_markdown(table(results).set_index("model")))
focus_controls(written, trajectory).save(here / f"figure{name}.svg")
