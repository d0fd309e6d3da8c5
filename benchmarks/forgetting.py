"""Measure which methods forget real facts of SmolLM2 with their default learning rates.

    python benchmarks/forgetting.py                     # default rates; two to four minutes a method on one core
    python benchmarks/forgetting.py --factor 4 npo rmu  # four times the default rate, of two methods
    python benchmarks/forgetting.py --auto simnpo rmu   # settings="auto", of two methods; up to ten minutes a method
    python benchmarks/forgetting.py --write             # writes all rows so far to docs/reference/unlearning.md

Of the capitals and element symbols of `experiments/audit/facts.csv` that the model knows, the first are to be
forgotten, the next are the retain set, and the next are unseen. A run ends where F is at least 0.9, or where its steps
are used up. Rows are kept in `--out`; a method that is measured again at the same rate replaces its row.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

import unpact_lens as ul
from unpact_lens.data.benchmark import QA
from unpact_lens.evaluation import known_facts
from unpact_lens.models.hooked import HookedModel
from unpact_lens.text_tables import to_markdown
from unpact_lens.unlearning.registry import default_settings, find

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "experiments" / "audit" / "facts.csv"
PAGE = ROOT / "docs" / "reference" / "unlearning.md"
START, END = "<!-- table: benchmarks/forgetting.py --write -->\n\n", "\n<!-- end of the table -->"

METHODS = ("ga", "npo", "npo_gdr", "simnpo", "rmu", "idk_ft", "unpact_blind_gdr")

KEY = ["method", "auto", "factor", "end_token"]
"""Columns that tell runs apart."""

LEVEL = 0.1
"""Share of the forget facts still known at which a run ends."""


def known_rows(model: HookedModel) -> tuple[QA, ...]:
    """Return the facts of the table that the model knows, in their order."""
    rows = pd.read_csv(TABLE)
    return known_facts(model, list(zip(rows.question, rows.answer, strict=True))).forget


def measured(model: HookedModel, known: tuple[QA, ...], method: str, options: argparse.Namespace) -> dict[str, object]:
    """Unlearn once and return a row of the table."""
    start = time.monotonic()
    n = options.facts
    default = default_settings(find(method), model, {})["lr"]
    given = {} if options.factor == 1 else {"lr": options.factor * default}
    given |= {"end_token": True} if options.end_token else {}
    given |= {"settings": "auto"} if options.auto else {"steps": options.steps}
    u = ul.unlearn(
        model, known[:n], known[n : 2 * n], method=method, stop_at=LEVEL, batch_size=options.batch, check_every=10,
        max_new_tokens=8, progress=False, **given,
    )  # fmt: skip
    unseen = known[2 * n : 3 * n]
    return {
        "method": method,
        "auto": options.auto,
        "factor": round(u.config["lr"] / default, 2),
        "end_token": u.config["end_token"],
        "lr": u.config["lr"],
        "steps": max(int(row["step"]) for row in u.history.rows if "step" in row),
        "F": u.forgotten,
        "lost": 1 - len(known_facts(u.model, unseen).forget) / len(unseen),
        "seconds": round(time.monotonic() - start),
    }


def table(rows: pd.DataFrame) -> str:
    """Return the rows as Markdown, method by method."""
    frame = rows.sort_values(KEY).assign(lr=rows["lr"].map("{:.2g}".format))
    names = {"factor": "times the default lr", "steps": "steps made", "lost": "unseen facts lost"}
    return to_markdown(frame.rename(columns=names), digits=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=METHODS, help="methods to measure")
    parser.add_argument("--factor", type=float, default=1.0, help="multiple of the default learning rate")
    parser.add_argument("--facts", type=int, default=12, help="facts to forget, to retain, and unseen, of each")
    parser.add_argument("--steps", type=int, default=60, help="largest number of steps")
    parser.add_argument("--batch", type=int, default=4, help="facts in a step, of the forget and of the retain set")
    parser.add_argument("--end-token", action="store_true", help="train the end token, which SmolLM2 does not expect")
    parser.add_argument("--auto", action="store_true", help="search the learning rate on these facts")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/forgetting.csv"), help="measured rows")
    parser.add_argument("--write", action="store_true", help="write the measured rows to the page, measure nothing")
    options = parser.parse_args()
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(START)[0], text.split(END)[1]
        PAGE.write_text(f"{before}{START}{table(pd.read_csv(options.out))}{END}{after}", encoding="utf-8")
        return
    model = ul.load_model("smollm2")
    known = known_rows(model)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for method in options.methods:
        row = pd.DataFrame([measured(model, known, method, options)])
        rows = pd.concat([pd.read_csv(options.out), row]) if options.out.is_file() else row
        rows.drop_duplicates(KEY, keep="last").to_csv(options.out, index=False)
        print(to_markdown(row), flush=True)


if __name__ == "__main__":
    main()
