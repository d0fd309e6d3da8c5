"""Run one cell of a study: unlearn with one method and one seed, and measure the unlearned model."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from unpact_lens import comparison, recovery, unlearning
from unpact_lens.attribution import TopK
from unpact_lens.comparison.diff import ModelDiff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.model_pair import require_comparable
from unpact_lens.errors import InputError
from unpact_lens.evaluation import prefill_for, verdict
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import check_place_of_model, save_model, saved_model_is_whole
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery import Recovery
from unpact_lens.recovery.probes.registry import AFTER as NEEDS_AFTER
from unpact_lens.recovery.probes.registry import PROBES
from unpact_lens.results import read_json, write_json
from unpact_lens.study.config import MethodConfig
from unpact_lens.study.folder import CELLS, CHECKPOINTS, COST, FAILURE, FINGERPRINT, MODELS
from unpact_lens.study.given_checkpoint import checkpoint_identity
from unpact_lens.study.keys import CELL, Key, hash_of
from unpact_lens.study.result import Cell
from unpact_lens.study.workspace import Workspace
from unpact_lens.unlearning.checkpointing import check_state, remove_state
from unpact_lens.unlearning.result import History

GIVEN = "the model was given"
"""What is recorded in place of the reason why training ended, where a study is given a checkpoint."""


class Checkpoint(TypedDict, total=False):
    """Hold the arguments of `unlearn` that say where a killed run goes on."""

    checkpoint: Path
    checkpoint_every: int


@dataclass(frozen=True)
class Outcome:
    """Hold what became of a cell.

    Attributes:
        cell: The cell. None if it is not finished.
        error: Error that ended it, in one line. None if it did not fail.
    """

    cell: Cell | None = None
    error: str | None = None


def cell_name(method: str, seed: int) -> str:
    """Return the name of the directories of a cell."""
    return f"{method}-seed{seed}"


def cell_place(space: Workspace, method: MethodConfig, seed: int) -> tuple[str, Key]:
    """Return the directory of a cell below the study's, and its key."""
    given = {} if method.checkpoint is None else {"checkpoint": checkpoint_identity(method.checkpoint)}
    key = space.key(CELL, method=method.model_dump(mode="json"), seed=seed, **given)
    return f"{CELLS}/{cell_name(method.name, seed)}", key


def study_cell(space: Workspace, method: MethodConfig, seed: int) -> Cell:
    """Return one method with one seed, from disk if it is finished.

    Args:
        space: Shared parts of the study.
        method: Name and hyperparameters of the method.
        seed: Random seed of training.
    """
    name, key = cell_place(space, method, seed)
    if space.finished(name, key) and not finished_cell(space, method, seed):
        space.step(f"{name} is computed again: its model in {MODELS}/ is missing or damaged")
        (space.folder / name / FINGERPRINT).unlink()
    cell = space.kept(name, key, lambda: _run(space, method, seed))
    state = _state(space, method, seed)
    if state.is_dir() and not state.is_symlink():
        remove_state(state)
    return cell


def finished_cell(space: Workspace, method: MethodConfig, seed: int) -> bool:
    """Return whether a cell with exactly these hyperparameters is on disk; see `study_cell` for the arguments."""
    model = _place_of_model(space, method, seed)
    return space.finished(*cell_place(space, method, seed)) and (model is None or saved_model_is_whole(model))


def _place_of_model(space: Workspace, method: MethodConfig, seed: int) -> Path | None:
    """Return the directory of the cell's unlearned model; None if it is not to be saved."""
    saved = space.config.save_models and method.checkpoint is None
    return space.folder / MODELS / cell_name(method.name, seed) if saved else None


def outcome(space: Workspace, method: MethodConfig, seed: int, *, retry: bool = False, run: bool = True) -> Outcome:
    """Return a cell or the error that ended it; an error is recorded beside the cell, and other cells can go on.

    Args:
        space: Shared parts of the study.
        method: Name and hyperparameters of the method.
        seed: Random seed of training.
        retry: If True, run a cell again that failed before.
        run: If False, run nothing.
    """
    name, key = cell_place(space, method, seed)
    known = known_failure(space.folder / name, key)
    # `study_cell` looks as well, and a look at a saved model reads it whole.
    if (known is not None or not run) and not finished_cell(space, method, seed):
        if known is not None and not (retry and run):
            return Outcome(error=known)
        if not run:
            return Outcome()
    try:
        return Outcome(study_cell(space, method, seed))
    except Exception as error:  # Whatever ends one cell must not end the others.
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_failure(space.folder / name, key, str(error) if isinstance(error, InputError) else text)
        space.step(f"{method.name}, seed {seed}, failed: {text}")
        del error
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return Outcome(error=known_failure(space.folder / name, key))


def write_failure(place: Path, key: Key, error: str) -> None:
    """Record the error of a cell, with its traceback.

    Args:
        place: Directory of the cell.
        key: Key of the cell. The record counts for this key only.
        error: Error in one line.
    """
    write_json(place / FAILURE, {"key": hash_of(key), "error": error, "traceback": traceback.format_exc()})


def known_failure(place: Path, key: Key | None = None) -> str | None:
    """Return the recorded error of a cell; None if there is none.

    Args:
        place: Directory of the cell.
        key: Key of the cell. Records of another key do not count. If None, any record counts.
    """
    if not (place / FAILURE).is_file():
        return None
    try:
        record = read_json(place / FAILURE)
    except InputError:
        return None
    if not isinstance(record, dict) or (key is not None and record.get("key") != hash_of(key)):
        return None
    return str(record.get("error"))


def _state(space: Workspace, method: MethodConfig, seed: int) -> Path:
    """Return the directory of the training state of a cell; another key has another directory."""
    key = cell_place(space, method, seed)[1]
    return space.folder / CHECKPOINTS / f"{cell_name(method.name, seed)}-{hash_of(key)[:16]}"


def _checkpoint(space: Workspace, method: MethodConfig, seed: int) -> Checkpoint:
    every, state = space.config.checkpoint_every, _state(space, method, seed)
    if not every:
        return {}
    try:
        check_state(state)
    except InputError as error:
        space.step(f"{method.name}, seed {seed}, starts anew: {error}")
        remove_state(state)
    return {"checkpoint": state, "checkpoint_every": every}


def peak_memory() -> int:
    """Return the largest main memory of this process so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes if sys.platform == "darwin" else kilobytes * 1024)


def _write_cost(space: Workspace, name: str, seconds: float) -> None:
    """Record what a cell cost, for the estimates of `--dry-run`."""
    gpu = torch.cuda.is_available()
    write_json(
        space.folder / CELLS / name / COST,
        {
            "seconds": seconds,
            "memory": peak_memory(),
            "gpu_memory": torch.cuda.max_memory_allocated() if gpu else 0,
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "threads": torch.get_num_threads(),
        },
    )


def free_control(space: Workspace) -> None:
    """Free the retrained model of a study. Its answers are on disk, and it is loaded again where a call needs it."""
    if vars(space).pop("control", None) is not None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _run(space: Workspace, method: MethodConfig, seed: int) -> Cell:
    """Unlearn with one method and one seed, or load the checkpoint that is given, and measure the unlearned model."""
    config, name = space.config, method.name
    place = _place_of_model(space, method, seed)
    if place is not None:
        check_place_of_model(place)
    # Parts that all cells share are made before the clock of this cell starts.
    before, reference, _ = space.before, space.control_scores, space.contributions
    if config.recovery.key_tokens != "after":
        _ = space.plan
    free_control(space)
    started = time.monotonic()

    made = _unlearned(space, method, seed) if method.checkpoint is None else _given(space, method.checkpoint)
    after = made.model
    space.step(f"{name}: scoring")
    scores = space.scored(after, before=before, reference=reference)
    space.step(f"{name}: contributions")
    shift, shift_retain = _focus(space, after)
    space.step(f"{name}: exact diffs")
    diffs = _diffs(space, after) if shift is not None else ()
    space.step(f"{name}: recovery")
    recovered = _recovery(space, after)
    judged = verdict(scores.forgetting, scores.destruction, recovered.excesses, epsilon=config.epsilon)
    _write_cost(space, cell_name(name, seed), time.monotonic() - started)
    if place is not None:
        save_model(after, place)
    return Cell(
        method=name,
        seed=seed,
        scores=scores,
        recovery=recovered,
        focus=shift,
        focus_retain=shift_retain,
        diffs=diffs,
        verdict=judged,
        history=made.history,
        stopped=made.stopped,
        settings=made.settings,
        seconds=time.monotonic() - started,
        warnings=made.warnings,
    )


@dataclass(frozen=True)
class _Made:
    """Hold an unlearned model, and what is known of its training."""

    model: HookedModel
    history: History
    stopped: str
    settings: dict[str, object]
    warnings: tuple[str, ...] = ()


def _unlearned(space: Workspace, method: MethodConfig, seed: int) -> _Made:
    """Unlearn with one method and one seed."""
    space.step(f"{method.name}: unlearning")
    found = unlearning.unlearn(
        space.model, **space.trained_away, method=method.name, seed=seed, stop_at=space.config.forget_level,
        progress=False, **_checkpoint(space, method, seed), **method.settings,
    )  # fmt: skip
    return _Made(found.model, found.history, found.stopped, found.config, found.warnings)


def _given(space: Workspace, checkpoint: str) -> _Made:
    """Load a checkpoint that someone else unlearned."""
    space.step(f"loading {checkpoint}")
    settings: dict[str, object] = {"checkpoint": checkpoint, "files": checkpoint_identity(checkpoint)}
    return _Made(space.load(checkpoint), History(()), GIVEN, settings)


def _focus(space: Workspace, after: HookedModel) -> tuple[Focus | None, Focus | None]:
    """Compare the contributions before and after on forget facts, and on retain facts if the study asks for them.

    Both are None if the models have other shapes or tokenizers, which a given checkpoint may have.
    """
    if not hooked.members_of(after):  # a combined model reads what its members read
        try:
            require_comparable(space.model, after)
        except InputError as error:
            space.step(f"no contributions and diffs: {error}")
            return None, None
    rule, before = TopK(space.config.contributions.key_tokens), space.contributions
    forget = focus(before["forget"], space.attributed(after, "forget"), rule)
    retain = focus(before["retain"], space.attributed(after, "retain"), rule) if before["retain"] else None
    return forget, retain


def _diffs(space: Workspace, after: HookedModel) -> tuple[ModelDiff, ...]:
    """Compute the exact component diffs of the first forget facts; none of a combined model."""
    if hooked.members_of(after):
        space.step(f"no exact diffs: a {type(after).__name__} is a combined model, which has no activations of its own")
        return ()
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
    # The answers of the retrained model are in the plan; few probes need the model itself.
    control = space.control if any(NEEDS_AFTER in PROBES[name].needs for name in plan.added) else None
    # The plan may come from a machine with more memory.
    found = recovery.run_plan(
        after, plan, before=space.model, control=control, batch_tokens=space.batch_tokens, progress=False
    )
    del control
    free_control(space)
    return found
