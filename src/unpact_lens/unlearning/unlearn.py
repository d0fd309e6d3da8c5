"""Unlearn a forget set: from a model and two data sets to a copy of the model that has forgotten one of them.

`unlearn` reads in this order: choose the method and its hyperparameters, tokenise both sets (`Request.job`), decide
what is scored on the way (`Watched.checks`), let the method prepare, draw the data order (`objective`), and carry the
method out, by `train_copy` unless the method does it in its own way.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unpact_lens.data.as_facts import FactSource, as_facts, as_source
from unpact_lens.data.benchmark import Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.hooked import HookedModel
from unpact_lens.progress import progress_bar
from unpact_lens.results import versions
from unpact_lens.unlearning.auto_settings import (
    auto_search,
    check_auto,
    rule_of_search,
    searched,
)
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.check import OnCheck
from unpact_lens.unlearning.checkpointing import Checkpoints, fingerprint
from unpact_lens.unlearning.dataset import draw_order
from unpact_lens.unlearning.early_stopping import Score, StopRule
from unpact_lens.unlearning.end_token import with_end_decided
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.examine import Asked, examine
from unpact_lens.unlearning.job import Job, Plan, copy_to_train, train_copy
from unpact_lens.unlearning.option import whole
from unpact_lens.unlearning.registry import Method, default_settings, find
from unpact_lens.unlearning.request import Request
from unpact_lens.unlearning.result import History, Trial, Unlearned
from unpact_lens.unlearning.run_data import sources, to_forget
from unpact_lens.unlearning.settings import split
from unpact_lens.unlearning.trainer import Options, Run, Term
from unpact_lens.unlearning.watched import Watched


def unlearn(
    model: HookedModel,
    forget: FactSource | Corpus,
    retain: FactSource | Corpus | None = None,
    *,
    method: str = "npo_gdr",
    seed: int = 0,
    stop_at: StopRule | float | None = None,
    forget_score: Score | None = None,
    retain_score: Score | None = None,
    track: FactSource = (),
    track_every: int = 10,
    on_check: OnCheck | None = None,
    keep: str = "last",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 50,
    progress: bool = True,
    settings: str | None = None,
    **hyperparameters: Any,
) -> Unlearned:
    """Make a copy of the model forget.

    With a `rank`, low-rank adapters are trained in place of the weights. On a bridge, the result keeps them apart and
    shares its weights with `model`: both need the memory of one.

    Args:
        model: Hooked causal model; it is not changed.
        forget: Facts in any form that `from_pairs` reads (a list of `(prompt, answer)` or `QA`, a DataFrame, a file),
            raw text (`Corpus`), or a benchmark, which also gives the retain set, chat template and prefill. A table
            with facts of the group `"retain"` is read as a benchmark. Of a benchmark with `unlearn_from="corpus"`
            (MUSE, WMDP) its corpora are unlearned and kept, and its questions only decide when to stop.
        retain: Facts to keep in the same forms, every row of them, or raw text. Methods without a retain term, or with
            self-rehearsal, use it for a retain floor only.
        method: Name of a method, see `methods()`. With `lora_` before it, low-rank adapters of rank 8 are trained.
        seed: Random seed of the data order and of all else that is random, a whole number of at least 0. On one CPU,
            equal seeds give bitwise equal weights.
        stop_at: Forgetting level (share of forget facts still known) or `StopRule` at which training stops. If None,
            trains for the full step budget. A task vector takes the smallest coefficient that reaches the level.
        forget_score: Function of a model to the share of the forget set still known. Default: the share of the facts
            known to the original model that greedy answers still contain.
        retain_score: The same for the retain set, used with a retain floor. Default: the validation facts of a
            benchmark, else the retain set.
        track: Facts whose contributions are attributed during training (`history.trajectory`).
        track_every: Number of steps between two such attributions.
        on_check: Function called with a `Check` before the first step, every `check_every` steps and at the end: step,
            F so far, losses, model. If it returns True, training stops. An exception in it ends the run. A resumed run
            calls it for the steps that it still makes. `log_to` makes one that logs.
        keep: `"last"`, or `"best"`: the result has the weights of the best check after the first step. Best is the
            largest harmonic mean of F and the retain score, among the checks above the retain floor, and of those the
            ones at the forget level, where there are any. It takes memory for one more copy of the trained weights.
        checkpoint: Directory for the run's state, and for references that do not fit in memory. If the run was killed,
            the same call resumes it and ends with the same weights.
        checkpoint_every: Number of steps between two states.
        progress: Show a progress bar on stderr, where that is a terminal.
        settings: `"auto"` searches the learning rate, and the number of steps if no rate is enough, for about two
            minutes; hyperparameters that are given are fixed. Runs stop at `stop_at`, or where F is at least 0.9. Of
            the rates that reach it, the one that loses the fewest validation facts of the benchmark is used (without
            any, the fewest facts of the retain set). The result has all trials (`search`).
        **hyperparameters: Hyperparameters, those of `Settings` or of the method. Numbers may be text, e.g. `lr="1e-5"`.
            Defaults were searched on `builtin`; the default `lr` follows the model's size (`default_settings`).

    Returns:
        The new model, its history, every hyperparameter in force, F (`forgotten`), and what went wrong (`warnings`).

    Raises:
        InputError: If the method or a hyperparameter is unknown or not accepted, the forget set is empty, a needed
            retain set is missing, the forget set is part of the retain set, an example is longer than the context, a
            module does not exist, the checkpoint is of another run, `on_check`, `keep="best"` or `settings="auto"` is
            given and the method does not train step by step, or the method changed nothing.
    """
    chosen = find(method)
    seed = whole("seed", seed, 0)
    track_every, checkpoint_every = whole("track_every", track_every, 1), whole("checkpoint_every", checkpoint_every, 1)
    rule = stop_at if isinstance(stop_at, StopRule) else StopRule(forget=stop_at)
    check_auto(settings, chosen, hyperparameters)
    rule = rule if settings is None else rule_of_search(rule)
    chat = hyperparameters.get("chat", False)
    watched = Watched(rule, forget_score, retain_score, as_facts(track, "track", chat=chat), track_every, keep)
    require_steps(chosen, on_check, keep)
    forget = to_forget(forget, chat)
    retain = None if retain is None else as_source(retain, "retain", chat=chat)
    data = sources(forget, retain)
    given = {**asked_as(forget, chosen), **hyperparameters} if isinstance(forget, Benchmark) else hyperparameters
    config, options = split(given, default_settings(chosen, trained_model(model, given), given), chosen.options)
    config = with_end_decided(model, data.forget, config, shown=progress)
    folder = None if checkpoint is None else Path(checkpoint)
    trials: tuple[Trial, ...] = ()
    if settings is not None:
        trial = functools.partial(
            unlearn, model, forget, retain, method=method, seed=seed, stop_at=rule, forget_score=forget_score,
            retain_score=retain_score, keep=keep, progress=False, **{**hyperparameters, "end_token": config.end_token},
        )  # fmt: skip
        search = auto_search(model, data, config, watched, trial, shown=progress)
        facts = {"method": method, "seed": seed, "model": model, "data": data, "watched": watched, "given": given}
        picked, trials = searched(
            search, folder, "" if folder is None else fingerprint({**facts, "versions": versions()})
        )
        config = dataclasses.replace(config, lr=picked.lr, steps=picked.steps)
    request = Request(chosen, model, data.forget, data.retain, config, options, seed)

    before = model_hash(model)
    inputs: dict[str, Any] = {"settings": config, "options": dict(options)} if folder is not None else {}
    job, kept = request.job(folder)
    rows = list(job.data.rows)
    checks = watched.checks(job, data.facts, data.kept, folder, on_check)
    checkpoints = None
    if folder is not None:
        inputs |= {"method": method, "seed": seed, "model": model, "data": data, "watched": watched}
        checkpoints = Checkpoints(folder, checkpoint_every, fingerprint({**inputs, "versions": versions()}))
    if chosen.prepare is not None:
        chosen.prepare(job)
    terms = objective(chosen, job, kept)
    described = description(job, rule, steps=len(terms[0].order))
    if isinstance(forget, Benchmark):
        described["retain_split"] = forget.retain_split

    after = copy_to_train(job) if chosen.carry_out is train_copy else clone(job.before)
    with progress_bar(f"unlearning by {method}", len(terms[0].order), shown=progress) as bar:
        run = chosen.carry_out(Plan(job, after, terms, checks, chosen.rule, chosen.combine, checkpoints, bar.at))
    result = after if run.model is None else run.model
    score = last_score(run)
    asked = Asked(model, data.forget, rows, data.facts, job.settings, rule, score, chosen.carry_out is train_copy)
    forgotten, warnings = examine(method, result, run, asked)
    return Unlearned(
        model=result,
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
        forget_score=score,
        hash_before=before,
        versions=versions(),
        threads=torch.get_num_threads(),
        forgotten=forgotten,
        warnings=warnings,
        kept=run.kept,
        search=trials,
    )


def require_steps(method: Method, on_check: OnCheck | None, keep: str) -> None:
    """Refuse what acts on the checks of training with a method that forms its result otherwise.

    Raises:
        InputError: If `on_check` or `keep="best"` is given with such a method.
    """
    asked = 'keep="best"' if keep == "best" else "on_check=" if on_check is not None else ""
    if asked and method.carry_out is not train_copy:
        raise InputError(f"{asked} acts at steps of training, and method {method.name!r} forms its result otherwise")


def last_score(run: Run) -> float | None:
    """Return the forget score at the last check, or at the check whose weights the result has."""
    scored = [row for row in run.rows if "forget_score" in row and run.kept in (None, row.get("step"))]
    return scored[-1]["forget_score"] if scored else None


def trained_model(model: HookedModel, settings: Mapping[str, Any]) -> HookedModel:
    """Return the model whose size decides the default lr: the small one of offset unlearning, or O3's base."""
    small = settings.get("small")
    if isinstance(small, HookedModel):
        return small
    return model.members[0] if isinstance(model, CombinedModel) else model


def asked_as(bench: Benchmark, method: Method) -> dict[str, Any]:
    """Return the hyperparameters that a benchmark brings: how it is asked, and its refusals where they are used."""
    asked: dict[str, Any] = {
        "chat": bench.chat, "prefill": bench.prefill, "max_new_tokens": bench.max_new_tokens, "stop": bench.stop,
    }  # fmt: skip
    return asked | ({"refusals": bench.refusals} if bench.refusals and "refusals" in method.options else {})


def objective(method: Method, job: Job, kept: Examples | None) -> list[Term]:
    """Build the terms of the objective and draw their data order.

    A loss that sums over an answer's tokens is divided by the mean answer length of the forget set.

    Args:
        method: Unlearning method.
        job: Prepared run.
        kept: Retain set, if the method has a retain term.
    """
    settings, options = job.settings, job.options
    steps = settings.length(len(job.data))
    each = options.get("mean") == "example"
    generator = torch.Generator().manual_seed(job.seed)
    scale = 1 / job.data.mean_answer_length if method.sums and options.get("length_scale", True) else 1.0
    order = draw_order(len(job.data), steps, settings.batch_size, generator)
    terms = [
        Term(
            "forget", method.forget, "example" if each else method.per, settings.gamma * scale, job.data, order, options
        )
    ]
    if method.retain is not None and kept is not None:
        order = draw_order(len(kept), steps, settings.batch_size, generator)
        terms.append(
            Term("retain", method.retain, "example" if each else "token", settings.alpha, kept, order, options)
        )
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
