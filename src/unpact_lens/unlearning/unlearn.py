"""`unlearn`: from a model and two data sets to a model that has forgotten one of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.results import versions
from unpact_lens.unlearning.adapters import Adapters
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.checkpointing import Checkpoints, fingerprint
from unpact_lens.unlearning.dataset import Source, check_overlap, draw_order, examples, owners
from unpact_lens.unlearning.early_stopping import Checks, FactsKnown, Score, Tracker
from unpact_lens.unlearning.ensembles import Together, whp
from unpact_lens.unlearning.methods import METHODS, Method, find
from unpact_lens.unlearning.o3 import Gated, Orthogonal, gate, joined
from unpact_lens.unlearning.prepare import Job
from unpact_lens.unlearning.reference_cache import Store
from unpact_lens.unlearning.result import History, StopRule, Unlearned
from unpact_lens.unlearning.settings import Settings, split
from unpact_lens.unlearning.task_vector import set_negated, smallest_coefficient, task_vector
from unpact_lens.unlearning.trainer import Run, Term, train, trainable


def unlearn(
    model: Any,
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
        model: a hooked causal model; it is not changed.
        forget: questions, raw text, or a benchmark (which also gives the retain set, chat template and prefill).
        retain: what is to be kept; methods without a retain term use it for a retain floor only.
        method: a name of `methods()`; `lora_` before it trains low-rank adapters and merges them.
        seed: decides the order of the data and all else that is random; the same seed gives bitwise the same weights
            on one CPU.
        stop_at: a forgetting level (share of forget facts still known) or a `StopRule`; None uses the step budget up.
            A task vector takes the smallest coefficient that reaches the level.
        forget_score: how known the forget set is, from a model to a share. Default: the share of facts known before
            that greedy answers still contain.
        retain_score: the same for the retain set; used with a retain floor.
        track: facts whose contributions are attributed while training goes on (`history.trajectory`).
        track_every: steps between two such looks.
        checkpoint: a directory for the run's state, and for references that memory does not hold; if the run was
            killed, the same call goes on from there and ends with the same weights.
        checkpoint_every: steps between two states.
        progress: show a progress bar on stderr, where that is a terminal.
        **settings: of `Settings`, or the method's own.

    Returns:
        The new model, its history, and every setting in force.

    Raises:
        InputError: for an unknown method or setting, an empty forget set, a missing retain set, a forget set that is
            part of the retain set, an example longer than the context, modules that do not exist, or a checkpoint of
            another run.
    """
    chosen = find(method)
    if isinstance(forget, Benchmark):
        settings = {**asked_as(forget, chosen), **settings}
        retain = forget.retain if retain is None else retain
        forget = forget.forget
    config, options = split(settings, chosen.defaults, chosen.options)
    rule = stop_at if isinstance(stop_at, StopRule) else StopRule(forget=stop_at)
    if chosen.retain is not None and not (retain.texts if isinstance(retain, Corpus) else retain):
        without = method.rsplit("_", 1)[0]
        raise InputError(
            f"method {method!r} needs a retain set; give retain=" + f", or use {without!r}" * (without in METHODS)
        )
    earlier = _earlier(model, chosen)
    before = model_hash(model)
    if earlier is not None:
        model = earlier.members[0]
    if chosen.wrap is not None:
        model = chosen.wrap(model, options)
    trainable(model, config.modules)
    folder = None if checkpoint is None else Path(checkpoint)
    limit = None if config.reference_mb is None else config.reference_mb * 2**20
    store = Store(limit, folder and folder / "references")
    data = Examples(examples(model, forget, config, "forget"), model, owners(forget, config), store)
    kept = None
    if chosen.retain is not None and retain:
        kept = Examples(examples(model, retain, config, "retain"), model, store=store)
    if retain:
        check_overlap(forget, retain)
    scores = _scores(rule, model, forget, retain, forget_score, retain_score, config)

    job = Job(model, forget, config, options, seed, data)
    if chosen.prepare is not None:
        chosen.prepare(job)
    config, options = job.settings, job.options
    steps = config.steps or config.epochs * -(-len(job.data) // config.batch_size)
    terms = _terms(chosen, job, kept, steps)
    described = {
        **dataclasses.asdict(config),
        **_described(options),
        "steps": steps,
        "stop_at": dataclasses.asdict(rule),
    }
    tracker = Tracker(track, track_every, config, folder and folder / "trajectory") if track else None
    saved = None
    if folder is not None:
        saved = Checkpoints(folder, checkpoint_every, _fingerprint(described, method, seed, before, terms))

    after = clone(model)
    with _Bar(f"unlearning by {method}", steps, progress) as bar:
        carry_out = {"arithmetic": _task_vector, "inference": _at_inference, "gated": _gated}.get(chosen.kind, _train)
        checks = Checks(rule, scores, config.check_every, tracker)
        run = carry_out(Plan(chosen, model, after, terms, config, options, seed, checks, saved, bar, earlier))
    scored = [row["forget_score"] for row in run.rows if "forget_score" in row]
    return Unlearned(
        model=run.model if run.model is not None else after,
        history=History(
            rows=tuple(run.rows),
            forget_order=terms[0].order,
            retain_order=terms[1].order if len(terms) > 1 else None,
            trajectory=tracker.taken if tracker else {},
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


@dataclass(frozen=True)
class Plan:
    """All that carrying out a method needs."""

    method: Method
    before: Any
    after: Any
    terms: Sequence[Term]
    settings: Settings
    options: Mapping[str, Any]
    seed: int
    checks: Checks
    checkpoints: Checkpoints | None
    on_step: Callable[[int, Mapping[str, float | int]], None]
    earlier: Gated | None = None


def _earlier(model: Any, method: Method) -> Gated | None:
    """The gated model that a further request of O3 goes on from; None for a model of its own."""
    if isinstance(model, Gated) and method.kind == "gated":
        return model
    if isinstance(model, Together):
        raise InputError(
            f"method {method.name!r} cannot start from {type(model).__name__}, several models that predict together; "
            "give one of its members" + ", or method='o3'" * isinstance(model, Gated)
        )
    return None


def asked_as(bench: Benchmark, method: Method) -> dict[str, Any]:
    """Settings that a benchmark brings."""
    asked = {"chat": bench.chat, "prefill": bench.prefill, "max_new_tokens": bench.max_new_tokens}
    return asked | ({"refusals": bench.refusals} if bench.refusals and "refusals" in method.options else {})


def _terms(method: Method, job: Job, kept: Examples | None, steps: int) -> list[Term]:
    """The objective with its data order; a loss that sums over an answer is divided by the mean answer length."""
    assert method.forget is not None
    generator = torch.Generator().manual_seed(job.seed)
    batch = job.settings.batch_size
    scale = 1 / job.data.mean_answer_length if method.sums and job.options["length_scale"] else 1.0
    order = draw_order(len(job.data), steps, batch, generator)
    terms = [Term("forget", method.forget, method.per, job.settings.gamma * scale, job.data, order)]
    if method.retain is not None and kept is not None:
        order = draw_order(len(kept), steps, batch, generator)
        terms.append(Term("retain", method.retain, "token", job.settings.alpha, kept, order))
    return terms


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options as they are recorded; a model by its hash."""
    return {k: model_hash(v) if isinstance(v, torch.nn.Module) else v for k, v in options.items()}


def _fingerprint(config: Mapping[str, Any], method: str, seed: int, before: str, terms: Sequence[Term]) -> str:
    rows = [[r.ids for r in t.data.rows] for t in terms]
    return fingerprint({**config, "method": method, "seed": seed, "before": before, "rows": rows})


def _scores(
    rule: StopRule,
    model: Any,
    forget: Source,
    retain: Source | None,
    forget_score: Score | None,
    retain_score: Score | None,
    config: Settings,
) -> dict[str, Score]:
    """What is scored on the way: what the user gave, and what the stop rule needs."""
    scores: dict[str, Score] = {}
    for name, given, level, source in (
        ("forget_score", forget_score, rule.forget, forget),
        ("retain_score", retain_score, rule.retain, retain),
    ):
        if given is not None:
            scores[name] = given
        elif level is not None:
            if source is None or isinstance(source, Corpus):
                raise InputError(f"stop_at watches {name}, but there are no questions to score; give {name}=")
            scores[name] = FactsKnown(model, source, config)
    return scores


def _train(plan: Plan) -> Run:
    """Methods with a loss: train the copy, all of it or adapters on it."""
    settings, rank = plan.settings, plan.settings.rank
    adapters = None
    if rank is not None:
        adapters = Adapters(plan.after, settings.modules, rank, settings.lora_alpha, plan.seed)
        settings = dataclasses.replace(settings, modules=None)
    rule = plan.method.rule(plan.after, plan.options) if plan.method.rule else None
    run = train(
        plan.after, plan.terms, settings, plan.options, plan.checks,
        rule=rule, checkpoints=plan.checkpoints, on_step=plan.on_step,
    )  # fmt: skip
    if adapters is not None:
        adapters.merge()
    return run


def _at_inference(plan: Plan) -> Run:
    """The copy and the reinforced model predict together; nothing is trained."""
    model = whp(plan.after, plan.terms[0].data.reinforced, float(plan.options["strength"]))
    return Run([{"step": 0, **plan.checks.take(model, 0, last=True)}], "nothing to train", model)


def _gated(plan: Plan) -> Run:
    """Adapters orthogonal to earlier ones, behind a gate."""
    settings, rank = plan.settings, plan.settings.rank or 8
    earlier = plan.earlier.bases if plan.earlier else {}
    adapters = Adapters(plan.after, settings.modules, rank, settings.lora_alpha, plan.seed)
    run = train(
        plan.after, plan.terms, dataclasses.replace(settings, modules=None), plan.options, plan.checks,
        rule=Orthogonal(adapters, earlier), checkpoints=plan.checkpoints, on_step=plan.on_step,
    )  # fmt: skip
    bases = joined(earlier, adapters)
    adapters.merge()
    forget, retain = plan.terms
    run.model = gate(clone(plan.before), plan.after, forget.data, retain.data, bases, plan.earlier)
    done = max((int(row["step"]) for row in run.rows), default=0)
    run.rows.append({"step": done, **plan.checks.take(run.model, done, last=True)})
    if run.stopped == "forget level reached" and plan.checks.verdict(run.rows[-1]) != run.stopped:
        run.stopped = "forget level reached by the adapters, but not behind the gate"
    return run


def _task_vector(plan: Plan) -> Run:
    """Train the copy on the forget set, then give it the weights on the other side of the model before."""
    run = _train(dataclasses.replace(plan, checks=Checks(StopRule(), {})))
    after, checks, options = plan.after, plan.checks, plan.options
    vector = task_vector(plan.before, after)
    level = checks.rule.forget

    def score(coefficient: float) -> dict[str, float]:
        set_negated(after, plan.before, vector, coefficient)
        run.rows.append({"coefficient": coefficient, **checks.take(after, 0, last=True)})
        return run.rows[-1]

    coefficient = options["coefficient"]
    if coefficient is None and level is not None:
        coefficient = smallest_coefficient(
            lambda a: score(a)["forget_score"] <= level,
            largest=float(options["max_coefficient"]), tolerance=options["tolerance"],
        )  # fmt: skip
        run.stopped = "forget level reached" if coefficient is not None else "no coefficient reaches the forget level"
        coefficient = options["max_coefficient"] if coefficient is None else coefficient
    score(1.0 if coefficient is None else float(coefficient))
    return run


class _Bar:
    """A progress bar on stderr, silent where that is no terminal."""

    def __init__(self, what: str, steps: int, shown: bool) -> None:
        console = Console(stderr=True)
        self.bar = Progress(console=console, transient=True, disable=not (shown and console.is_terminal))
        self.task = self.bar.add_task(what, total=steps)

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, step: int, row: Mapping[str, float | int]) -> None:
        self.bar.update(self.task, completed=step)
