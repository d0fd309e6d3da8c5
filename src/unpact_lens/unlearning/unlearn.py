"""Unlearn a forget set: from a model and two data sets to a copy of the model that has forgotten one of them.

`unlearn` reads in this order: choose the method and its hyperparameters, tokenise both sets (`Request.job`), decide
what is scored on the way (`Watched.checks`), let the method prepare, draw the data order (`objective`), and carry the
method out, by `train_copy` unless the method does it in its own way.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.hooked import HookedModel
from unpact_lens.progress import progress_bar
from unpact_lens.results import versions
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.checkpointing import Checkpoints, fingerprint
from unpact_lens.unlearning.dataset import Source, check_overlap, draw_order, examples, owners
from unpact_lens.unlearning.early_stopping import Checks, FactsKnown, Score, StopRule, Tracker
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.job import Job, Plan
from unpact_lens.unlearning.reference_cache import Store
from unpact_lens.unlearning.registry import METHODS, Method, find
from unpact_lens.unlearning.result import History, Unlearned
from unpact_lens.unlearning.settings import Settings, split
from unpact_lens.unlearning.trainable import trainable
from unpact_lens.unlearning.trainer import Options, Term


def unlearn(
    model: HookedModel,
    forget: Source | Benchmark,
    retain: Source | None = None,
    *,
    method: str = "npo_gdr",
    seed: int = 0,
    stop_at: StopRule | float | None = None,
    forget_score: Score | None = None,
    retain_score: Score | None = None,
    track: Sequence[QA] = (),
    track_every: int = 10,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 50,
    progress: bool = True,
    **settings: Any,
) -> Unlearned:
    """Make a copy of the model forget.

    Args:
        model: Hooked causal model; it is not changed.
        forget: Questions, raw text, or a benchmark, which also gives the retain set, chat template and prefill.
        retain: Questions or raw text to keep. Methods without a retain term use it for a retain floor only.
        method: Name of a method, see `methods()`. With `lora_` before it, low-rank adapters are trained and merged.
        seed: Random seed of the data order and of all else that is random. On one CPU, equal seeds give bitwise equal
            weights.
        stop_at: Forgetting level (share of forget facts still known) or `StopRule` at which training stops. If None,
            trains for the full step budget. A task vector takes the smallest coefficient that reaches the level.
        forget_score: Function of a model to the share of the forget set still known. Default: the share of the facts
            known to the original model that greedy answers still contain.
        retain_score: The same for the retain set, used with a retain floor.
        track: Facts whose contributions are attributed during training (`history.trajectory`).
        track_every: Number of steps between two such attributions.
        checkpoint: Directory for the run's state, and for references that do not fit in memory. If the run was killed,
            the same call resumes it and ends with the same weights.
        checkpoint_every: Number of steps between two states.
        progress: Show a progress bar on stderr, where that is a terminal.
        **settings: Hyperparameters, those of `Settings` or of the method.

    Returns:
        The new model, its history, and every hyperparameter in force.

    Raises:
        InputError: If the method or a hyperparameter is unknown, the forget set is empty, a needed retain set is
            missing, the forget set is part of the retain set, an example is longer than the context, a module does not
            exist, or the checkpoint is of another run.
    """
    chosen = find(method)
    if isinstance(forget, Benchmark):
        settings = {**asked_as(forget, chosen), **settings}
        retain = forget.retain if retain is None else retain
        forget = forget.forget
    config, options = split(settings, chosen.defaults, chosen.options)
    request = Request(chosen, model, forget, retain, config, options, seed)
    rule = stop_at if isinstance(stop_at, StopRule) else StopRule(forget=stop_at)
    folder = None if checkpoint is None else Path(checkpoint)

    before = model_hash(model)
    job, kept = request.job(folder)
    checks = Watched(rule, forget_score, retain_score, tuple(track), track_every).checks(job, retain, folder)
    if chosen.prepare is not None:
        chosen.prepare(job)
    terms = objective(chosen, job, kept)
    described = description(job, rule, steps=len(terms[0].order))
    checkpoints = None
    if folder is not None:
        rows = [[r.ids for r in term.data.rows] for term in terms]
        facts = {**described, "method": method, "seed": seed, "before": before, "rows": rows}
        checkpoints = Checkpoints(folder, checkpoint_every, fingerprint(facts))

    after = clone(job.before)
    with progress_bar(f"unlearning by {method}", len(terms[0].order), shown=progress) as bar:
        run = chosen.carry_out(Plan(job, after, terms, checks, chosen.rule, checkpoints, bar.at))
    scored = [row["forget_score"] for row in run.rows if "forget_score" in row]
    return Unlearned(
        model=after if run.model is None else run.model,
        history=History(
            rows=tuple(run.rows),
            forget_order=terms[0].order,
            retain_order=terms[1].order if len(terms) > 1 else None,
            trajectory=checks.trajectory,
        ),
        config=described,
        method=method,
        seed=seed,
        stopped=run.stopped,
        forget_score=scored[-1] if scored else None,
        hash_before=before,
        versions=versions(),
        threads=torch.get_num_threads(),
    )


def asked_as(bench: Benchmark, method: Method) -> dict[str, Any]:
    """Return the hyperparameters that a benchmark brings: how it is asked, and its refusals where they are used."""
    asked = {"chat": bench.chat, "prefill": bench.prefill, "max_new_tokens": bench.max_new_tokens}
    return asked | ({"refusals": bench.refusals} if bench.refusals and "refusals" in method.options else {})


@dataclass(frozen=True)
class Request:
    """Hold what is to be unlearned, and how.

    Attributes:
        method: Unlearning method.
        model: Model that the caller gave.
        forget: Forget set.
        retain: Retain set, or None.
        settings: Hyperparameters that all methods share.
        options: Hyperparameters of the method.
        seed: Random seed.

    Raises:
        InputError: If the method needs a retain set and there is none, or cannot start from this model.
    """

    method: Method
    model: HookedModel
    forget: Source
    retain: Source | None
    settings: Settings
    options: dict[str, Any]
    seed: int

    def __post_init__(self) -> None:
        name = self.method.name
        empty = not (self.retain.texts if isinstance(self.retain, Corpus) else self.retain)
        if self.method.retain is not None and empty:
            without = name.rsplit("_", 1)[0]
            raise InputError(
                f"method {name!r} needs a retain set; give retain=" + f", or use {without!r}" * (without in METHODS)
            )
        if isinstance(self.model, CombinedModel) and not continues(self.method, self.model):
            able = [m.name for m in METHODS.values() if continues(m, self.model)]
            raise InputError(
                f"method {name!r} cannot start from {type(self.model).__name__}, several models that predict together; "
                "give one of its members" + "".join(f", or method={other!r}" for other in able)
            )

    def job(self, folder: Path | None) -> tuple[Job, Examples | None]:
        """Tokenise both sets.

        Args:
            folder: Directory of the run's state, or None.

        Returns:
            The run as the method may prepare it, and the retain set if the method has a retain term.
        """
        config, retain = self.settings, self.retain
        model = self.model if self.method.start is None else self.method.start(self.model, self.options)
        trainable(model, config.modules)
        limit = None if config.reference_mb is None else config.reference_mb * 2**20
        store = Store(limit, folder and folder / "references")
        data = Examples(examples(model, self.forget, config, "forget"), model, owners(self.forget, config), store)
        kept = None
        if self.method.retain is not None and retain:
            kept = Examples(examples(model, retain, config, "retain"), model, store=store)
        if retain:
            check_overlap(self.forget, retain)
        return Job(self.model, model, self.forget, config, self.options, self.seed, data), kept


def continues(method: Method, model: HookedModel) -> bool:
    """Return whether a further request of this method may start from this combined model."""
    return method.continues is not None and isinstance(model, method.continues)


@dataclass(frozen=True)
class Watched:
    """Hold what is scored and attributed during training.

    Attributes:
        rule: When to stop.
        forget_score: The caller's score of the forget set, or None.
        retain_score: The caller's score of the retain set, or None.
        track: Facts whose contributions are attributed.
        track_every: Number of steps between two attributions.
    """

    rule: StopRule
    forget_score: Score | None
    retain_score: Score | None
    track: tuple[QA, ...]
    track_every: int

    def checks(self, job: Job, retain: Source | None, folder: Path | None) -> Checks:
        """Return the checks of a run: the caller's scores, those that the stop rule needs, and the tracked facts.

        Raises:
            InputError: If the stop rule needs a score and there are no questions, or the model knows none of the facts.
        """
        scores: dict[str, Score] = {}
        for name, given, level, source in (
            ("forget_score", self.forget_score, self.rule.forget, job.forget),
            ("retain_score", self.retain_score, self.rule.retain, retain),
        ):
            if given is not None:
                scores[name] = given
            elif level is not None:
                if source is None or isinstance(source, Corpus):
                    raise InputError(f"stop_at watches {name}, but there are no questions to score; give {name}=")
                scores[name] = FactsKnown(job.before, source, job.settings)
        tracker = None
        if self.track:
            tracker = Tracker(self.track, self.track_every, job.settings, folder and folder / "trajectory")
        return Checks(self.rule, scores, job.settings.check_every, tracker)


def objective(method: Method, job: Job, kept: Examples | None) -> list[Term]:
    """Build the terms of the objective and draw their data order.

    A loss that sums over an answer's tokens is divided by the mean answer length of the forget set.

    Args:
        method: Unlearning method.
        job: Prepared run.
        kept: Retain set, if the method has a retain term.
    """
    settings, options = job.settings, job.options
    steps = settings.steps or settings.epochs * -(-len(job.data) // settings.batch_size)
    generator = torch.Generator().manual_seed(job.seed)
    scale = 1 / job.data.mean_answer_length if method.sums and options["length_scale"] else 1.0
    order = draw_order(len(job.data), steps, settings.batch_size, generator)
    terms = [Term("forget", method.forget, method.per, settings.gamma * scale, job.data, order, options)]
    if method.retain is not None and kept is not None:
        order = draw_order(len(kept), steps, settings.batch_size, generator)
        terms.append(Term("retain", method.retain, "token", settings.alpha, kept, order, options))
    return terms


def description(job: Job, rule: StopRule, steps: int) -> dict[str, Any]:
    """Return every hyperparameter in force, as it is recorded with the result."""
    return {
        **dataclasses.asdict(job.settings),
        **_recorded(job.options),
        "steps": steps,
        "stop_at": dataclasses.asdict(rule),
    }


def _recorded(options: Options) -> Mapping[str, Any]:
    """Return a method's options with each model replaced by its hash."""
    return {k: model_hash(v) if isinstance(v, HookedModel) else v for k, v in options.items()}
