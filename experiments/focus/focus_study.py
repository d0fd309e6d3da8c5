"""Run finding 1 as a study: unlearn with each method and seed, and measure the focus with controls.

Each part is kept on disk, so an interrupted study resumes where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd

from experiments.focus.focus_shift import Compared, FocusShift, ShiftOptions, focus_shift
from experiments.shared.experiment_key import experiment_key
from unpact_lens import unlearning
from unpact_lens.attribution import TopK
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.asking import Asking
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.probes.relearn import relearned
from unpact_lens.results import Result
from unpact_lens.study.config import MethodConfig, StudyConfig
from unpact_lens.study.folder import open_folder
from unpact_lens.study.keys import hash_of
from unpact_lens.study.run_study import arithmetic, step_bar
from unpact_lens.study.workspace import Workspace
from unpact_lens.unlearning.result import Unlearned

RETRAIN, UNRELATED = "retrain", "unrelated"
"""Controls: the retrained model, and the original model after further training on general facts."""

GROUPS = ("forget", "paraphrase", "retain")
"""Groups of facts that are measured."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FocusStudy(Result):
    """Hold the focus of all unlearned models and of the controls.

    Attributes:
        config: Configuration of the study.
        shifts: One comparison per model, seed and group of facts.
        trajectory: Rows of `step, measure, mean, low, high, n, method, seed` for the forget facts along training.
        trained: Rows of `model, seed, steps, lr, forget_score, stopped`. `forget_score` is the share of the forget
            facts still generated, None for the control.
    """

    figure: ClassVar[str | None] = None

    config: dict[str, Any]
    shifts: tuple[FocusShift, ...]
    trajectory: tuple[dict[str, Any], ...]
    trained: tuple[dict[str, Any], ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per model, seed, group and fact."""
        frames = [s.to_frame().assign(model=s.model, seed=s.seed, group=s.group) for s in self.shifts]
        return pd.concat(frames, ignore_index=True)

    def trained_frame(self) -> pd.DataFrame:
        """Return a table of how each model was trained."""
        return pd.DataFrame(list(self.trained))

    def trajectory_frame(self) -> pd.DataFrame:
        """Return the trajectory as a table."""
        return pd.DataFrame(list(self.trajectory))


def focus_study(
    config: StudyConfig,
    out: str | os.PathLike[str],
    *,
    draws: int = 8,
    track_every: int = 3,
    by_head: Sequence[str] = GROUPS,
    progress: bool = True,
) -> FocusStudy:
    """Run the parts of the study that are not finished.

    The measured facts are spread evenly over the benchmark: `contributions.forget` forget facts and
    `contributions.retain` retain facts. The paraphrases are held out of unlearning. The control `unrelated` is the
    original model, trained further on the general facts by the trainer of the library. For each seed it takes the
    number of steps of the longest method and the largest learning rate of the methods.

    Args:
        config: Configuration with held-out paraphrases. Without `control` there is no retrained model in the study.
        out: Directory of the finished parts.
        draws: Number of random sets of other tokens for each fact.
        track_every: Number of steps between two points of the trajectory.
        by_head: Groups of facts on which each head alone is restored, one run per head and fact.
        progress: Report progress on stderr.

    Raises:
        InputError: If no paraphrase is held out, there are no general facts, or a group is unknown.
    """
    if config.hold_out_phrasings == 0:
        raise InputError("hold_out_phrasings=0 leaves no held-out paraphrase; give at least 1")
    for group in by_head:
        if group not in GROUPS:
            raise InputError(f"by_head has {group!r}; {nearest(group, GROUPS)}")
    config = config.model_copy(update={"threads": open_folder(out, config).threads})
    with arithmetic(config), step_bar(config, progress) as step:
        space = Workspace(config, Path(out), step)
        if not space.bench.general:
            raise InputError(f"benchmark {space.bench.name!r} has no general facts to train further on")
        facts = measured_facts(space)
        measuring = Measuring(space, facts, draws, tuple(by_head))
        found, trajectory, trained = [], [], []
        if space.control is not None:
            found += measuring.shifts(Candidate.of(RETRAIN, 0, space.control))
        for seed in config.seeds:
            runs: list[Unlearned] = []
            for method in config.methods:
                unlearned = unlearned_model(space, method, seed, track=facts["forget"], track_every=track_every)
                path = unlearned.history.focus(TopK(config.contributions.key_tokens))
                path = path.drop(columns="about").assign(method=method.name, seed=seed)
                trajectory += [{str(k): v for k, v in row.items()} for row in path.to_dict("records")]
                found += measuring.shifts(Candidate.of(method.name, seed, unlearned.model))
                runs.append(unlearned)
            rows = [_trained(u) for u in runs]
            largest = {name: max(row[name] for row in rows) for name in ("lr", "steps")}
            trained += [*rows, {"model": UNRELATED, "seed": seed, **largest, "forget_score": None, "stopped": ""}]
            recipe = {**largest, "batch_size": max(u.config["batch_size"] for u in runs), "seed": seed}
            found += measuring.shifts(_unrelated(space, recipe))
        return FocusStudy(config.model_dump(mode="json"), tuple(found), tuple(trajectory), tuple(trained))


@dataclass(frozen=True)
class Candidate:
    """Name a model whose focus is measured, and make it when it is needed.

    Attributes:
        name: Name of the model.
        seed: Random seed of its training.
        model: Function that returns the model.
        weights: Fingerprint of the model, or the hash of all that it is made from.
    """

    name: str
    seed: int
    model: Callable[[], HookedModel]
    weights: str

    @classmethod
    def of(cls, name: str, seed: int, model: HookedModel) -> Candidate:
        """Wrap a model that is already loaded."""
        return cls(name, seed, lambda: model, model_fingerprint(model))


def _unrelated(space: Workspace, recipe: Mapping[str, Any]) -> Candidate:
    """Return the control on unrelated facts; it is trained once, when it is first needed."""

    @cache
    def made() -> HookedModel:
        space.step(f"{UNRELATED}: training further")
        return relearned(space.model, space.bench.general, space.bench, **recipe)

    return Candidate(UNRELATED, recipe["seed"], made, hash_of(experiment_key(space, "further", recipe=dict(recipe))))


@dataclass(frozen=True)
class Measuring:
    """Measure candidates on the same facts, with the same draws.

    Attributes:
        space: Parts of the study on disk.
        facts: Facts of each group.
        draws: Number of random sets of other tokens for each fact.
        by_head: Groups on which each head alone is restored.
    """

    space: Workspace
    facts: Mapping[str, Sequence[QA]]
    draws: int
    by_head: tuple[str, ...]

    def shifts(self, candidate: Candidate) -> list[FocusShift]:
        """Measure one candidate on each group of facts, or load what is finished."""
        return [self._shift(candidate, group) for group in self.facts]

    def _shift(self, candidate: Candidate, group: str) -> FocusShift:
        space, items, by_head = self.space, self.facts[group], group in self.by_head
        options = ShiftOptions(TopK(space.config.contributions.key_tokens), self.draws, by_head)
        asked = Asking(chat=space.bench.chat, prefill=space.bench.prefill)

        def run() -> FocusShift:
            space.step(f"{candidate.name}: focus on {group} facts")
            compared = Compared(candidate.name, candidate.seed, group)
            return focus_shift(space.model, candidate.model(), items, compared, options, asked)

        key = experiment_key(
            space, "focus", candidate=candidate.name, weights=candidate.weights, seed=candidate.seed, group=group,
            facts=[asdict(q) for q in items], draws=self.draws, by_head=by_head,
        )  # fmt: skip
        return space.kept(f"focus/{candidate.name}-seed{candidate.seed}-{group}", key, run)


def _trained(unlearned: Unlearned) -> dict[str, Any]:
    """Describe how a model was trained."""
    return {
        "model": unlearned.method, "seed": unlearned.seed, "lr": unlearned.config["lr"],
        "steps": max(int(row["step"]) for row in unlearned.history.rows), "forget_score": unlearned.forget_score,
        "stopped": unlearned.stopped,
    }  # fmt: skip


def measured_facts(space: Workspace) -> dict[str, list[QA]]:
    """Select the facts of each group: forget facts, held-out paraphrases of them, unseen retain facts."""
    wanted = space.config.contributions
    forget = spread(space.bench.forget, wanted.forget)
    return {
        "forget": forget,
        "paraphrase": [replace(q, prompt=q.paraphrases[0]) for q in forget],
        "retain": spread(space.bench.unseen or space.bench.retain, wanted.retain),
    }


def spread(items: Sequence[T], n: int) -> list[T]:
    """Select `n` evenly spaced items, or all if there are fewer. Few facts then cover many subjects.

    >>> spread("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def unlearned_model(
    space: Workspace, method: MethodConfig, seed: int, *, track: Sequence[QA], track_every: int
) -> Unlearned:
    """Unlearn with one method and seed, or load the finished model.

    Args:
        space: Parts of the study on disk.
        method: Name and hyperparameters of the method.
        seed: Random seed of training.
        track: Facts whose contributions are recorded along training.
        track_every: Number of steps between two records.
    """
    level = space.config.forget_level
    key = experiment_key(
        space, "unlearned", method=method.model_dump(mode="json"), seed=seed, track=[asdict(q) for q in track],
        track_every=track_every,
    )  # fmt: skip

    def run() -> Unlearned:
        space.step(f"{method.name}: unlearning")
        return unlearning.unlearn(
            space.model, **space.trained_away, method=method.name, seed=seed, stop_at=level, track=track,
            track_every=track_every, progress=False, **method.settings,
        )  # fmt: skip

    return space.kept(f"unlearned/{method.name}-seed{seed}", key, run)
