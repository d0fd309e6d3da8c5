"""Measure what unlearning destroys of facts that its retain term never saw; see README.md beside this file.

    python -m experiments.unseen.run              # all units, one after the other, then the tables
    python -m experiments.unseen.run --jobs 16    # the same with 16 processes of one thread
    python -m experiments.unseen.run --list       # names of the units
    python -m experiments.unseen.run --unit NAME  # one unit only, no tables
    python -m experiments.unseen.run --tiny       # two short units of each kind in runs/tiny/, to try the code

Finished units are kept in runs/full/ and are not run again. The command writes results.csv, same-number.csv,
figure.svg and the tables of README.md. `--tiny` writes its tables into runs/tiny/ only.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from experiments.shared.command_line import arguments
from experiments.shared.experiment import load_experiment
from experiments.shared.page_tables import fill_block
from experiments.unseen.curve_figure import curve_figure
from experiments.unseen.retention import retention_curve, same_number
from experiments.unseen.units import Unit, run_unit, units
from unpact_lens.results import write_text
from unpact_lens.study import estimates
from unpact_lens.study.config import StudyConfig
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent


def timed(unit: Unit, config: StudyConfig, runs: Path) -> float:
    """Run one unit, and return its wall time in seconds."""
    started = time.monotonic()
    run_unit(unit, config, runs)
    return time.monotonic() - started


def tiny(config: StudyConfig) -> StudyConfig:
    """Shorten the experiment to two methods, one seed and six steps."""
    methods = tuple(m.model_copy(update={"settings": {**m.settings, "steps": 6}}) for m in config.methods[:2])
    return config.model_copy(update={"methods": methods, "seeds": config.seeds[:1]})


def main(given: list[str]) -> None:
    """Run what the command line asks for."""
    (config,) = load_experiment(HERE / "config.yaml").values()
    small = "--tiny" in given
    if small:
        config = tiny(config)
    runs = HERE / "runs" / ("tiny" if small else "full")
    planned = list(units(config, splits=1, numbers=(5,)) if small else units(config))
    if "--list" in given:
        print("\n".join(unit.name for unit in planned))
        return
    if "--unit" in given:
        wanted = given[given.index("--unit") + 1]
        chosen = [unit for unit in planned if unit.name == wanted]
        if not chosen:
            sys.exit(f"no unit {wanted!r}; --list names them all")
        print(f"{wanted}: {timed(chosen[0], config, runs):.0f} s")
        return
    jobs = int(given[given.index("--jobs") + 1]) if "--jobs" in given else 1
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        started = {pool.submit(timed, unit, config, runs): unit for unit in planned}
        for done, future in enumerate(as_completed(started), start=1):
            print(f"{done}/{len(planned)} {started[future].name}: {future.result():.0f} s", flush=True)
    found = {unit: run_unit(unit, config, runs) for unit in planned}
    curve, same = retention_curve(found).round(4), same_number(found).round(4)
    out = runs if small else HERE
    write_text(out / "results.csv", curve.to_csv(index=False))
    write_text(out / "same-number.csv", same.to_csv(index=False))
    curve_figure(curve).save(out / "figure.svg")
    if not small:
        fill_block(HERE / "README.md", "curve", to_markdown(estimates(curve).set_index("method")))
        fill_block(HERE / "README.md", "same-number", to_markdown(estimates(same).set_index("method")))


if __name__ == "__main__":
    main(arguments(__doc__))
