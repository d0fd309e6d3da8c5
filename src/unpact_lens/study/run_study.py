"""Run a study: unlearn with each method and seed, score, attribute, diff, recover and judge each model, and report.

Each part is written to disk when it is finished. A second run of the same study loads the finished parts (see
`unpact_lens.study.workspace`), so an interrupted study continues where it stopped.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from unpact_lens import comparison, recovery, unlearning
from unpact_lens.attribution import TopK
from unpact_lens.comparison.diff import ModelDiff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.evaluation import prefill_for, verdict
from unpact_lens.models.checkpoint import save_model
from unpact_lens.models.hooked import HookedModel
from unpact_lens.progress import progress_bar
from unpact_lens.recovery import Probing, Recovery
from unpact_lens.recovery.probes.registry import checked
from unpact_lens.report import write_report
from unpact_lens.results import save, versions, write_text
from unpact_lens.study.config import MethodConfig, StudyConfig
from unpact_lens.study.result import Cell, Study
from unpact_lens.study.workspace import Workspace, probing_options
from unpact_lens.unlearning.settings import split


def run_study(config: StudyConfig, out: str | os.PathLike[str], *, progress: bool = True) -> Study:
    """Run the unfinished parts of a study, write everything, and return it.

    Args:
        config: Configuration, as `load_config` returns it.
        out: Directory of the results: `result.json` and tensors of the whole study, `cells/<method>-seed<n>/`,
            `table.csv` and `report.html`.
        progress: If True, show a progress bar on stderr. If stderr is not a terminal, print one line for each step.

    Returns:
        The study.

    Raises:
        InputError: If a method, hyperparameter, template, probe or benchmark is unknown (before any model is loaded),
            or the model knows none of the facts.
    """
    folder = Path(out)
    check_names(config)
    with arithmetic(config), step_bar(config, progress) as step:
        space = Workspace(config, folder, step)
        cells = tuple(study_cell(space, method, seed) for seed in config.seeds for method in config.methods)
        study = Study(
            config=config.model_dump(mode="json"),
            before=space.before,
            control=space.control_scores,
            cells=cells,
            notes=space.notes,
            seconds=sum(c.seconds for c in cells),
            environment={"versions": versions(), "threads": torch.get_num_threads(), "model": space.hash},
        )
        step("writing the report")
        save(study, folder)
        write_text(folder / "table.csv", study.to_frame().to_csv(index=False))
        write_report(study, folder / "report.html")
    return study


def check_names(config: StudyConfig) -> None:
    """Refuse unknown methods, hyperparameters, templates and probes.

    Raises:
        InputError: If there is one.
    """
    for method in config.methods:
        chosen = unlearning.METHODS[method.name]
        split(method.settings, chosen.defaults, chosen.options)
    checked(Probing(**probing_options(config)))


def study_cell(space: Workspace, method: MethodConfig, seed: int) -> Cell:
    """Return one method with one seed, from disk if it is finished.

    Args:
        space: Shared parts of the study.
        method: Name and hyperparameters of the method.
        seed: Random seed of training.
    """
    name, fingerprint = _place(space, method, seed)
    return space.kept(name, fingerprint, lambda: _run(space, method, seed))


def finished_cell(space: Workspace, method: MethodConfig, seed: int) -> bool:
    """Return whether a cell with exactly these hyperparameters is on disk; see `study_cell` for the arguments."""
    return space.finished(*_place(space, method, seed))


def _place(space: Workspace, method: MethodConfig, seed: int) -> tuple[str, str]:
    """Return the directory of a cell, and its fingerprint."""
    rest = space.config.model_dump(exclude={"methods", "seeds"})
    part = space.fingerprint("cell", asdict(space.bench), method.model_dump(), seed, rest)
    return f"cells/{method.name}-seed{seed}", part


def _run(space: Workspace, method: MethodConfig, seed: int) -> Cell:
    """Unlearn with one method and one seed, and measure the unlearned model."""
    config, name = space.config, method.name
    # Parts that all cells share are made before the clock of this cell starts.
    before, reference, _ = space.before, space.control_scores, space.contributions
    if config.recovery.key_tokens != "after":
        _ = space.plan
    started = time.monotonic()

    space.step(f"{name}: unlearning")
    unlearned = unlearning.unlearn(
        space.model, **space.trained_away, method=name, seed=seed, stop_at=config.forget_level, progress=False,
        **method.settings,
    )  # fmt: skip
    after: HookedModel = unlearned.model
    space.step(f"{name}: scoring")
    scores = space.scored(after, before=before, reference=reference)
    space.step(f"{name}: contributions")
    shift, shift_retain = _focus(space, after)
    space.step(f"{name}: exact diffs")
    diffs = _diffs(space, after)
    space.step(f"{name}: recovery")
    recovered = _recovery(space, after)
    judged = verdict(scores.forgetting, scores.destruction, recovered.excesses, epsilon=config.epsilon)
    if config.save_models:
        save_model(after, space.folder / "models" / f"{name}-seed{seed}")
    return Cell(
        method=name,
        seed=seed,
        scores=scores,
        recovery=recovered,
        focus=shift,
        focus_retain=shift_retain,
        diffs=diffs,
        verdict=judged,
        history=unlearned.history,
        stopped=unlearned.stopped,
        settings=unlearned.config,
        seconds=time.monotonic() - started,
    )


def _focus(space: Workspace, after: HookedModel) -> tuple[Focus, Focus | None]:
    """Compare the contributions before and after on forget facts, and on retain facts if the study asks for them."""
    rule, before = TopK(space.config.contributions.key_tokens), space.contributions
    forget = focus(before["forget"], space.attributed(after, "forget"), rule)
    retain = focus(before["retain"], space.attributed(after, "retain"), rule) if before["retain"] else None
    return forget, retain


def _diffs(space: Workspace, after: HookedModel) -> tuple[ModelDiff, ...]:
    """Compute the exact component diffs of the first forget facts."""
    bench = space.bench
    return tuple(
        comparison.diff(
            space.model, after, q.prompt, q.answer, chat=bench.chat, prefill=prefill_for(bench, q), weights=False
        )
        for q in bench.forget[: space.config.diff_examples]
    )


def _recovery(space: Workspace, after: HookedModel) -> Recovery:
    """Run the shared plan, or a plan for this model alone if its own KeyTokens are emphasised."""
    plan = space.new_plan(after) if space.config.recovery.key_tokens == "after" else space.plan
    return recovery.run_plan(after, plan, before=space.model, control=space.control, progress=False)


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


@contextmanager
def step_bar(config: StudyConfig, progress: bool) -> Iterator[Callable[[str], None]]:
    """Show the steps of a study: a bar on a terminal, one line for each step elsewhere, nothing without `progress`.

    Yields:
        A function to call with the name of each step.
    """
    total = 5 * len(config.methods) * len(config.seeds) + 6
    with progress_bar(config.name, total, shown=progress) as bar:

        def step(text: str) -> None:
            if bar.shown:
                bar.say(text)
                bar.step()
            elif progress:
                print(text, file=sys.stderr, flush=True)

        yield step
