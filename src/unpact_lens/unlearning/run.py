"""`unlearn`: from a model and two data sets to a model that has forgotten one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from unpact_lens.data.qa import Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.results import versions
from unpact_lens.unlearning.arithmetic import set_negated, smallest_coefficient, task_vector
from unpact_lens.unlearning.checks import Checks, FactsKnown, Score
from unpact_lens.unlearning.examples import Source, check_overlap, draw_order, examples
from unpact_lens.unlearning.methods import METHODS, Method
from unpact_lens.unlearning.result import History, StopRule, Unlearned
from unpact_lens.unlearning.settings import Settings, split
from unpact_lens.unlearning.trainer import Run, Term, train, trainable
from unpact_lens.unlearning.views import Examples


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
    progress: bool = True,
    **settings: Any,
) -> Unlearned:
    """Make a copy of the model forget.

    Args:
        model: a hooked causal model; it is not changed.
        forget: questions, raw text, or a benchmark (which also gives the retain set, chat template and prefill).
        retain: what is to be kept; methods without a retain term use it for a retain floor only.
        method: a name of `methods()`.
        seed: decides the order of the data; the same seed gives bitwise the same weights on one CPU.
        stop_at: a forgetting level (share of forget facts still known) or a `StopRule`; None uses the step budget up.
            A task vector takes the smallest coefficient that reaches the level.
        forget_score: how known the forget set is, from a model to a share. Default: the share of facts known before
            that greedy answers still contain.
        retain_score: the same for the retain set; used with a retain floor.
        progress: show a progress bar on stderr, where that is a terminal.
        **settings: of `Settings`, or the method's own.

    Returns:
        The new model, its history, and every setting in force.

    Raises:
        InputError: for an unknown method or setting, an empty forget set, a missing retain set, a forget set that is
            part of the retain set, an example longer than the context, or modules that do not exist.
    """
    chosen = METHODS[method]
    if isinstance(forget, Benchmark):
        settings = {"chat": forget.chat, "prefill": forget.prefill, "max_new_tokens": forget.max_new_tokens, **settings}
        retain = forget.retain if retain is None else retain
        forget = forget.forget
    config, options = split(settings, chosen.defaults, chosen.options)
    rule = stop_at if isinstance(stop_at, StopRule) else StopRule(forget=stop_at)
    if chosen.retain is not None and not (retain and (not isinstance(retain, Corpus) or retain.texts)):
        raise InputError(f"method {method!r} needs a retain set; give retain=, or use {method.rsplit('_', 1)[0]!r}")
    forget_rows = Examples(examples(model, forget, config, "forget"), model)
    if retain:
        check_overlap(forget, retain)
    trainable(model, config.modules)

    steps = config.steps or config.epochs * -(-len(forget_rows) // config.batch_size)
    generator = torch.Generator().manual_seed(seed)
    terms = [_forget_term(chosen, forget_rows, config, options, steps, generator)]
    if chosen.retain is not None and retain is not None:
        retain_rows = Examples(examples(model, retain, config, "retain"), model)
        order = draw_order(len(retain_rows), steps, config.batch_size, generator)
        terms.append(Term("retain", chosen.retain, "token", config.alpha, retain_rows, order))
    checks = Checks(rule, _scores(rule, model, forget, retain, forget_score, retain_score, config), config.check_every)

    after = clone(model)
    carry_out = _task_vector if chosen.kind == "arithmetic" else _train
    with _Bar(f"unlearning by {method}", steps, progress) as bar:
        run = carry_out(model, after, terms, config, options, checks, bar)
    scored = [row["forget_score"] for row in run.rows if "forget_score" in row]
    return Unlearned(
        model=after,
        history=History(
            rows=tuple(run.rows),
            forget_order=terms[0].order,
            retain_order=terms[1].order if len(terms) > 1 else None,
        ),
        config={
            **dataclasses.asdict(config),
            **options,
            "steps": steps,
            "stop_at": dataclasses.asdict(rule),
        },
        method=method,
        seed=seed,
        stopped=run.stopped,
        forget_score=scored[-1] if scored else None,
        hash_before=model_hash(model),
        versions=versions(),
        threads=torch.get_num_threads(),
    )


def _forget_term(
    method: Method, rows: Examples, config: Settings, options: Mapping[str, Any], steps: int, generator: torch.Generator
) -> Term:
    """The forget term; a loss that sums over an answer is divided by the mean answer length."""
    assert method.forget is not None
    scale = 1 / rows.mean_answer_length if method.sums and options["length_scale"] else 1.0
    order: Int[Tensor, "step batch"] = draw_order(len(rows), steps, config.batch_size, generator)
    return Term("forget", method.forget, method.per, config.gamma * scale, rows, order)


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


def _train(
    before: Any,
    after: Any,
    terms: list[Term],
    config: Settings,
    options: Mapping[str, Any],
    checks: Checks,
    on_step: Callable[[int, Mapping[str, float | int]], None],
) -> Run:
    """Methods with a loss: train the copy."""
    return train(after, terms, config, options, checks, on_step)


def _task_vector(
    before: Any,
    after: Any,
    terms: list[Term],
    config: Settings,
    options: Mapping[str, Any],
    checks: Checks,
    on_step: Callable[[int, Mapping[str, float | int]], None],
) -> Run:
    """Train the copy on the forget set, then give it the weights on the other side of the model before."""
    run = train(after, terms, config, options, Checks(StopRule(), {}), on_step)
    vector = task_vector(before, after)

    def reaches(coefficient: float) -> bool:
        set_negated(after, before, vector, coefficient)
        taken = checks.take(after)
        run.rows.append({"coefficient": coefficient, **taken})
        return taken["forget_score"] <= (checks.rule.forget or 0.0)

    coefficient = options["coefficient"]
    if coefficient is None and checks.rule.forget is not None:
        coefficient = smallest_coefficient(reaches, largest=options["max_coefficient"], tolerance=options["tolerance"])
        run.stopped = "forget level reached" if coefficient is not None else "no coefficient reaches the forget level"
        coefficient = options["max_coefficient"] if coefficient is None else coefficient
    coefficient = 1.0 if coefficient is None else float(coefficient)
    set_negated(after, before, vector, coefficient)
    run.rows.append({"coefficient": coefficient, **checks.take(after)})
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
