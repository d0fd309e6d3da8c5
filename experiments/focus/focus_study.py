"""Finding 1 as a study: unlearn each method with each seed, and look at its focus beside controls; resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd

from experiments.focus.focus_shift import FocusShift, focus_shift
from unpact_lens import unlearning
from unpact_lens.attribution import TopK
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.recovery.probes.relearn import relearned
from unpact_lens.results import Result
from unpact_lens.study.config import MethodConfig, StudyConfig
from unpact_lens.study.run_study import Workspace, arithmetic, step_bar
from unpact_lens.unlearning.result import Unlearned

RETRAIN, UNRELATED = "retrain", "unrelated"
"""Controls: a model that never saw the forget set, and the model before trained further on general facts."""

GROUPS = ("forget", "paraphrase", "retain")
"""Groups of facts that are looked at."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FocusStudy(Result):
    """Focus of every unlearned model and of the controls.

    Attributes:
        config: of the study.
        shifts: one for each model, seed and group of facts.
        trajectory: `step, measure, mean, low, high, n, method, seed` of the forget facts while unlearning goes on.
        trained: how each model came about: `model, seed, steps, lr, forget_score` (share of the forget facts still
            known; None for the control) and `stopped`.
    """

    figure: ClassVar[str | None] = None

    config: dict[str, Any]
    shifts: tuple[FocusShift, ...]
    trajectory: tuple[dict[str, Any], ...]
    trained: tuple[dict[str, Any], ...]

    def to_frame(self) -> pd.DataFrame:
        """One row for each model, seed, group and fact."""
        frames = [s.to_frame().assign(model=s.model, seed=s.seed, group=s.group) for s in self.shifts]
        return pd.concat(frames, ignore_index=True)

    def trained_frame(self) -> pd.DataFrame:
        """How each model was trained, as a table."""
        return pd.DataFrame(list(self.trained))

    def trajectory_frame(self) -> pd.DataFrame:
        """The trajectory as a table."""
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
    """Run what is not finished yet.

    The facts looked at are spread evenly over the benchmark's, `contributions.forget` and `contributions.retain` of
    them; the paraphrases are phrasings held out of unlearning. The control on unrelated text is the model before,
    trained on the general facts with the trainer of the library, with each seed for as many steps as the longest of the
    methods took and at the largest of their learning rates.

    Args:
        config: with phrasings held out; without a control the study has no model that never knew the facts.
        out: directory of what is finished.
        draws: how many sets of random tokens stand beside the KeyTokens of each fact.
        track_every: steps between two looks of the trajectory.
        by_head: of which groups each head alone is put back, which takes a run for each head and fact.
        progress: say on stderr what is being done.

    Raises:
        InputError: if no phrasing is held out, there are no general facts, or a group is unknown.
    """
    if config.hold_out_phrasings == 0:
        raise InputError("hold_out_phrasings=0 leaves no phrasing that unlearning has not seen; give at least 1")
    for group in by_head:
        if group not in GROUPS:
            raise InputError(f"by_head has {group!r}; {nearest(group, GROUPS)}")
    with arithmetic(config), step_bar(config, progress) as step:
        space = Workspace(config, Path(out), step)
        if not space.bench.general:
            raise InputError(f"benchmark {space.bench.name!r} has no general facts to train further on")
        groups = facts_looked_at(space)
        found, trajectory, trained = [], [], []
        looks = partial(_looks, space, groups=groups, draws=draws, by_head=by_head)
        if space.control is not None:
            found += looks(partial(_given, space.control), RETRAIN, 0, weights=model_hash(space.control))
        for seed in config.seeds:
            runs: list[Unlearned] = []
            for method in config.methods:
                unlearned = unlearned_model(space, method, seed, track=groups["forget"], track_every=track_every)
                path = unlearned.history.focus(TopK(config.contributions.key_tokens))
                path = path.drop(columns="about").assign(method=method.name, seed=seed)
                trajectory += [{str(k): v for k, v in row.items()} for row in path.to_dict("records")]
                after = unlearned.model
                found += looks(partial(_given, after), method.name, seed, weights=model_hash(after))
                runs.append(unlearned)
            rows = [_trained(u) for u in runs]
            settings = {name: max(row[name] for row in rows) for name in ("lr", "steps")}
            trained += [*rows, {"model": UNRELATED, "seed": seed, **settings, "forget_score": None, "stopped": ""}]
            recipe = {**settings, "batch_size": max(u.config["batch_size"] for u in runs), "seed": seed}
            further = space.fingerprint("further", asdict(space.bench), recipe)
            found += looks(_further(space, recipe), UNRELATED, seed, weights=further)
        return FocusStudy(config.model_dump(mode="json"), tuple(found), tuple(trajectory), tuple(trained))


def _given(model: Any) -> Any:
    """A model that is there already, where `_looks` takes one that may have to be made."""
    return model


def _further(space: Workspace, recipe: Mapping[str, Any]) -> Callable[[], Any]:
    """The control on unrelated text, trained once when it is first asked for."""

    @cache
    def made() -> Any:
        space.step(f"{UNRELATED}: training further")
        return relearned(space.model, space.bench.general, space.bench, **recipe)

    return made


def _trained(unlearned: Unlearned) -> dict[str, Any]:
    return {
        "model": unlearned.method, "seed": unlearned.seed, "lr": unlearned.config["lr"],
        "steps": max(int(row["step"]) for row in unlearned.history.rows), "forget_score": unlearned.forget_score,
        "stopped": unlearned.stopped,
    }  # fmt: skip


def facts_looked_at(space: Workspace) -> dict[str, list[QA]]:
    """The facts of each group: forget, the same in a phrasing that was held out, and retain."""
    wanted = space.config.contributions
    forget = spread(space.bench.forget, wanted.forget)
    return {
        "forget": forget,
        "paraphrase": [replace(q, prompt=q.paraphrases[0]) for q in forget],
        "retain": spread(space.bench.retain, wanted.retain),
    }


def spread(items: Sequence[T], n: int) -> list[T]:
    """`n` of the items, evenly spaced (all where there are fewer), so that few facts touch many subjects.

    >>> spread("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def unlearned_model(
    space: Workspace, method: MethodConfig, seed: int, *, track: Sequence[QA], track_every: int
) -> Unlearned:
    """One method with one seed, from disk if it is finished there.

    Args:
        space: of the study.
        method: its name and settings.
        seed: of training.
        track: facts whose contributions are followed.
        track_every: steps between two looks at them.
    """
    level = space.config.forget_level
    part = space.fingerprint(
        "unlearned",
        asdict(space.to_unlearn),
        space.config.unlearn_from,
        method.model_dump(),
        seed,
        level,
        [asdict(q) for q in track],
        track_every,
    )

    def run() -> Unlearned:
        space.step(f"{method.name}: unlearning")
        return unlearning.unlearn(
            space.model, **space.trained_away, method=method.name, seed=seed, stop_at=level, track=track,
            track_every=track_every, progress=False, **method.settings,
        )  # fmt: skip

    return space.kept(f"unlearned/{method.name}-seed{seed}", part, run)


def _looks(
    space: Workspace,
    after: Callable[[], Any],
    name: str,
    seed: int,
    *,
    weights: str,
    groups: dict[str, list[QA]],
    draws: int,
    by_head: Sequence[str],
) -> list[FocusShift]:
    """One model on every group of facts, from disk where that is finished there; it is made only for what is not.

    `weights` tells models apart that differ: a hash of them, or of all that they come from.
    """
    rule, bench = TopK(space.config.contributions.key_tokens), space.bench
    found = []
    for group, items in groups.items():

        def run(group: str = group, items: list[QA] = items) -> FocusShift:
            space.step(f"{name}: focus on {group} facts")
            return focus_shift(
                space.model, after(), items, model=name, seed=seed, group=group, rule=rule, draws=draws,
                by_head=group in by_head, chat=bench.chat, prefill=bench.prefill,
            )  # fmt: skip

        alone = () if group in by_head else ("no head alone",)
        part = space.fingerprint(
            "focus", weights, [asdict(q) for q in items], asdict(rule), draws, name, seed, group, *alone
        )
        found.append(space.kept(f"focus/{name}-seed{seed}-{group}", part, run))
    return found
