"""Run a study: unlearn with each method and seed, score, attribute, diff, recover and judge each model, and report.

1. Refuse unknown names and a directory that is not ours, before any work.
2. Make the parts that all cells share: known facts, scores of the original and the retrained model, plan.
3. Run each cell that is not finished, here, in several processes or on a Ray cluster. A cell that fails is recorded.
4. Write the study, its table and its report from the finished cells.

Each part is written to disk when it is finished. A second run of the same study loads the finished parts (see
`unpact_lens.study.workspace`), so an interrupted study continues where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from unpact_lens.errors import InputError
from unpact_lens.progress import step_bar
from unpact_lens.recovery import Probing
from unpact_lens.recovery.probes.registry import checked
from unpact_lens.report import write_report
from unpact_lens.results import load, versions, write_result, write_text
from unpact_lens.study.cells import cell_name, cell_place, finished_cell, outcome, study_cell, write_failure
from unpact_lens.study.claims import claim
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.folder import CLAIMS, StudyFolder, check_folder, open_folder
from unpact_lens.study.given_checkpoint import checkpoint_refusal
from unpact_lens.study.result import Study
from unpact_lens.study.tasks import ASSEMBLE, SHARED_PARTS, Task, cell_tasks, methods_and_seeds
from unpact_lens.study.workspace import Workspace, probing_options
from unpact_lens.unlearning.registry import find
from unpact_lens.unlearning.settings import split

__all__ = ["arithmetic", "assemble", "check_names", "finished_cell", "run_study", "run_task", "study_cell"]


def run_study(
    config: StudyConfig,
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    on: str | None = None,
    share: tuple[int, int] = (0, 1),
    retry: bool = False,
    progress: bool = True,
) -> Study:
    """Run the unfinished parts of a study, write everything, and return it.

    Results do not depend on `jobs`, `on` or `share`: a serial run with the same number of torch threads and the same
    `batch_tokens` is bitwise equal. Set both in the configuration where runs on several machines are to agree.

    Args:
        config: Configuration, as `load_config` returns it.
        out: Directory of the results: `result.json` and tensors of the whole study, `cells/<method>-seed<n>/`,
            `table.csv` and `report.html`. It is new, empty, or that of an earlier run.
        jobs: Number of processes. Each has its share of the cores, and of the GPUs if there are several.
        on: `"ray"` runs the cells as tasks of the Ray cluster that `RAY_ADDRESS` names, or that runs on this machine.
            All nodes must see `out` under the same path. Needs the `[cluster]` extra.
        share: Pair (i, n): run only every n-th cell, from cell i on, as job i of a SLURM array of n jobs.
        retry: If True, run the cells again that failed before. Otherwise their errors are kept.
        progress: If True, show a progress bar on stderr. If stderr is not a terminal, print one line for each step.

    Returns:
        The study. `Study.failed` lists the cells that failed.

    Raises:
        InputError: If a method, hyperparameter, template, probe or benchmark is unknown, or the directory holds other
            things (before any model is loaded), if the model knows none of the facts, or if no cell could be finished.
    """
    check_names(config)
    check_way(jobs, on, share)
    check_folder(out)
    opened = open_folder(out, config, max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None)
    tasks = cell_tasks(config, share, retry=retry)
    with step_bar(config.name, 5 * len(methods_and_seeds(config)) + 6, shown=progress) as step:
        if on == "ray":
            from unpact_lens.study.on_ray import run_on_ray

            run_on_ray(opened, config, tasks, step)
        elif jobs > 1:
            from unpact_lens.study.processes import run_in_processes

            run_in_processes(opened, tasks, jobs, step)
        else:
            return _run_here(opened, config, tasks, step)
    found: Study = load(opened.folder)
    return found


def _run_here(opened: StudyFolder, config: StudyConfig, tasks: list[Task], step: Callable[[str], None]) -> Study:
    """Run a study in this process."""
    fixed = config.model_copy(update={"threads": opened.threads})
    with arithmetic(fixed):
        space = Workspace(fixed, opened.folder, step)
        for task in (SHARED_PARTS, *tasks):
            run_task(space, config, task)
        return assemble(space, config)


def run_task(space: Workspace, config: StudyConfig, task: Task) -> str | None:
    """Carry out one task of a study; every way to run a study calls this.

    Args:
        space: Shared parts of the study, with the number of threads in force.
        config: Configuration as the user gave it.
        task: What to do.

    Returns:
        Error of a cell that failed, else None.
    """
    if task == ASSEMBLE:
        assemble(space, config)
        return None
    if task == SHARED_PARTS:
        if not all(finished_cell(space, method, seed) for method, seed in methods_and_seeds(config)):
            space.make_shared()
        return None
    method = next(m for m in config.methods if m.name == task.method)
    if task.do == "fail":
        name, key = cell_place(space, method, task.seed)
        write_failure(space.folder / name, key, task.reason)
        return task.reason
    return outcome(space, method, task.seed, retry=task.retry).error


def assemble(space: Workspace, config: StudyConfig) -> Study:
    """Write the study, its table and its report from the cells that are finished.

    Args:
        space: Shared parts of the study.
        config: Configuration as the user gave it.

    Raises:
        InputError: If no cell is finished.
    """
    with claim(space.folder / CLAIMS, "study", space.step):
        cells, failed, missing = [], [], []
        for method, seed in methods_and_seeds(config):
            found = outcome(space, method, seed, run=False)
            if found.cell is not None:
                cells.append(found.cell)
            elif found.error is not None:
                failed.append({"method": method.name, "seed": seed, "error": found.error})
            else:
                missing.append(cell_name(method.name, seed))
        if not cells:
            first = failed[0] if failed else {}
            why = f"{first['method']} with seed {first['seed']}: {first['error']}" if first else "none was run"
            raise InputError(f"no cell of the study is finished; {why}")
        notes = [*space.notes]
        if failed:
            notes.append(f"{len(failed)} cells failed: " + "; ".join(f"{f['method']} seed {f['seed']}" for f in failed))
        if missing:
            notes.append(f"{len(missing)} cells are not finished: {', '.join(missing)}")
        study = Study(
            config=config.model_dump(mode="json"),
            before=space.before,
            control=space.control_scores,
            cells=tuple(cells),
            notes=tuple(notes),
            seconds=sum(c.seconds for c in cells),
            environment={"versions": versions(), "threads": torch.get_num_threads(), "model": space.hash},
            failed=tuple(failed),
        )
        space.step("writing the report")
        write_result(study, space.folder)
        write_text(space.folder / "table.csv", study.to_frame().to_csv(index=False))
        write_report(study, space.folder / "report.html")
    return study


def check_way(jobs: int, on: str | None, share: tuple[int, int]) -> None:
    """Refuse a way to run a study that makes no sense.

    Raises:
        InputError: If `jobs` or `share` is out of range, `on` is unknown, or both are given.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs={jobs!r}; give a number of processes of at least 1")
    if on not in (None, "ray"):
        raise InputError(f"on={on!r}; give 'ray', or leave it out to run on this machine")
    if on == "ray" and jobs != 1:
        raise InputError(f"jobs={jobs} with on='ray': Ray decides how many cells run at once; give one of the two")
    if not 0 <= share[0] < share[1]:
        raise InputError(f"share {share[0]}/{share[1]}; give i/n with 0 <= i < n, e.g. 0/4 to 3/4 for four jobs")


def check_names(config: StudyConfig) -> None:
    """Refuse unknown methods, hyperparameters, checkpoints, templates and probes.

    Raises:
        InputError: If there is one.
    """
    for method in config.methods:
        if method.checkpoint is not None:
            if reason := checkpoint_refusal(method.checkpoint):
                raise InputError(reason)
            continue
        chosen = find(method.name)
        split(method.settings, chosen.defaults, chosen.options)
    checked(Probing(**probing_options(config)))


@contextmanager
def arithmetic(config: StudyConfig) -> Iterator[None]:
    """Set the torch threads and the precision of matrix products of a study, and restore them afterwards."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(config.threads or threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
