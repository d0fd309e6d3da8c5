"""Which method forgets without destroying and without hiding? See README.md beside this file.

    python -m experiments.dilemma.run            # the embedded model
    python -m experiments.dilemma.run smollm2 [SEED ...]    # the study of ../recovery/config-smollm2.yaml

Finished cells are kept in runs/ and not run again. Writes results.csv, kinds.csv, gaps.csv, figure.html and the tables
of README.md; for another study, `-NAME` follows each of these names.
"""

import sys
from pathlib import Path

import unpact_lens as ul
from experiments.shared.blocks import fill_block
from experiments.shared.experiment import load_experiment
from unpact_lens.evaluation import to_markdown
from unpact_lens.results import write_text
from unpact_lens.study import dilemma, dilemma_by_kind, distance_gaps, estimates, kinds_table

here = Path(__file__).parent
name = f"-{sys.argv[1]}" if len(sys.argv) > 1 else ""
recovery = here.parent / "recovery"
seeds = tuple(map(int, sys.argv[2:]))
(config,) = load_experiment((recovery if name else here) / f"config{name}.yaml", seeds).values()
study = ul.run_study(config, recovery / "runs" / f"one-phrasing{name}" if name else here / "runs")
found, kinds = dilemma(study), dilemma_by_kind(study).round(4)
results = found.to_frame().sort_values("distance").round(4)
nearest = results["method"].iloc[0]
gaps = distance_gaps(study, nearest).round(4)
tables = {"results": results, "gaps": gaps}
if kinds["distance"].notna().any():  # not where near or far facts are all of other kinds than those to forget
    tables["kinds"] = kinds
for what, frame in tables.items():
    write_text(here / f"{what}{name}.csv", frame.to_csv(index=False))
    table = kinds_table(frame) if what == "kinds" else estimates(frame).set_index("method")
    fill_block(here / "README.md", f"{what}{name}", to_markdown(table))
for paper in ("muse-news", "muse-books", "tofu-forget10"):
    fill_block(here / "README.md", paper, to_markdown(ul.published(paper).to_frame()))
found.plot().write_html(here / f"figure{name}.html", include_plotlyjs="cdn")
