"""Plan and run the units of the experiment: one method, one choice of trained and unseen subjects, one seed.

A unit takes one process. It unlearns, scores the trained and the unseen retain facts, and keeps the scores on disk. A
finished unit is not run again; a unit of another configuration, model, library or source is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import unpact_lens as ul
from unpact_lens.data.splits import Facts, subject_of
from unpact_lens.evaluation import Scores
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import versions, write_text
from unpact_lens.source_hash import source_hash
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.keys import hash_of

HALVES, CURVE = "halves", "curve"

SPLITS = 5
"""Splits of the retain subjects into two halves; each half is trained on once."""

UNSEEN_SUBJECTS = 12
"""Subjects that no run of the curve trains on: a fifth of the 64, drawn anew for each seed."""

NUMBERS = (5, 15, 31, 52)
"""Numbers of trained subjects along the curve. A smaller set is a part of each larger one of its seed."""


@dataclass(frozen=True)
class Unit:
    """Hold one run.

    Attributes:
        part: `"halves"` or `"curve"`.
        method: Unlearning method.
        trained: Number of trained subjects.
        seed: Random seed of the order of the subjects and of training.
        half: Which half is trained on. 0 on the curve.
    """

    part: str
    method: str
    trained: int
    seed: int
    half: int = 0

    @property
    def name(self) -> str:
        """Return the name of the unit, which is its directory below `runs/full/`.

        >>> Unit("curve", "npo_gdr", 15, 2).name, Unit("halves", "ga_gdr", 32, 0, 1).name
        ('curve/npo_gdr-15-seed2', 'halves/ga_gdr-split0-half1')
        """
        if self.part == HALVES:
            return f"{HALVES}/{self.method}-split{self.seed}-half{self.half}"
        return f"{CURVE}/{self.method}-{self.trained}-seed{self.seed}"

    def parts(self, facts: Facts) -> tuple[Facts, Facts]:
        """Return the trained and the unseen facts."""
        order = subject_order(facts, self.seed)
        if self.part == HALVES:
            halves = (order[: len(order) // 2], order[len(order) // 2 :])
            trained, unseen = halves[self.half], halves[1 - self.half]
        else:
            unseen, trained = order[:UNSEEN_SUBJECTS], order[UNSEEN_SUBJECTS : UNSEEN_SUBJECTS + self.trained]
        return about(facts, trained), about(facts, unseen)


def subject_order(facts: Facts, seed: int) -> list[str]:
    """Draw an order of the subjects in which every stretch has its share of near and far facts.

    Subjects are grouped by their number of near facts. The subjects of a group are spread evenly over the order.

    Args:
        facts: Retain facts.
        seed: Random seed.
    """
    rng = random.Random(f"unseen/{seed}")
    groups: dict[int, list[str]] = {}
    for subject in facts.subjects:
        near = sum(q.group == "near" for q in facts if subject_of(q) == subject)
        groups.setdefault(near, []).append(subject)
    places: list[tuple[float, str]] = []
    for near in sorted(groups):
        subjects = groups[near]
        rng.shuffle(subjects)
        start = rng.random()
        places += [((i + start) / len(subjects), subject) for i, subject in enumerate(subjects)]
    return [subject for _, subject in sorted(places)]


def about(facts: Facts, subjects: Sequence[str]) -> Facts:
    """Return the facts about these subjects."""
    wanted = set(subjects)
    return Facts(q for q in facts if subject_of(q) in wanted)


def units(config: StudyConfig, *, splits: int = SPLITS, numbers: Sequence[int] = NUMBERS) -> Iterator[Unit]:
    """List the units: both halves of every split, then the curve.

    Args:
        config: Methods, and the seeds of the curve.
        splits: Number of splits into halves.
        numbers: Numbers of trained subjects along the curve.
    """
    subjects = len(ul.load_benchmark(config.benchmark, retain_split=None).retain.subjects)
    for method in config.methods:
        for split in range(splits):
            for half in (0, 1):
                n = subjects // 2 if half == 0 else subjects - subjects // 2
                yield Unit(HALVES, method.name, n, split, half)
    for method in config.methods:
        for n in numbers:
            for seed in config.seeds:
                yield Unit(CURVE, method.name, n, seed)


def run_unit(unit: Unit, config: StudyConfig, runs: Path) -> Scores:
    """Unlearn and score, or load the scores of a finished unit.

    Args:
        unit: The run.
        config: Model, benchmark, forget level and hyperparameters.
        runs: Directory of all units.
    """
    folder = runs / unit.name
    settings = next(m.settings for m in config.methods if m.name == unit.method)
    key = _key(unit, settings, config)
    if (folder / "key.json").is_file() and (folder / "key.json").read_text(encoding="utf-8") == key:
        found: Scores = ul.load(folder)
        return found
    torch.set_num_threads(1)  # fastest for a tiny model; units run side by side
    model: HookedModel = ul.load_model(config.model)
    whole = ul.load_benchmark(config.benchmark, retain_split=None)
    trained, unseen = unit.parts(whole.kept)
    bench = replace(whole, retain=trained, unseen=unseen, general=(), unknown=(), retain_corpus=None, plain_text=None)
    u = ul.unlearn(
        model, bench, method=unit.method, seed=unit.seed, stop_at=config.forget_level, progress=False, **settings
    )
    steps = max((int(row["step"]) for row in u.history.rows if "step" in row), default=0)
    scores = ul.evaluate(u.model, bench, ["fact_span"], before=model)
    scores = replace(scores, settings={**scores.settings, **asdict(unit), "steps": steps, "stopped": u.stopped})
    scores.save(folder)
    write_text(folder / "key.json", key)
    return scores


def _key(unit: Unit, settings: Mapping[str, Any], config: StudyConfig) -> str:
    """Return a record of all that a unit depends on."""
    facts = {
        "unit": asdict(unit), "settings": settings, "model": config.model, "benchmark": config.benchmark,
        "forget_level": config.forget_level, "unseen": UNSEEN_SUBJECTS, "versions": versions(), "code": source_hash(),
    }  # fmt: skip
    return json.dumps({**facts, "hash": hash_of(facts)}, sort_keys=True, default=str)
