"""Unlearn on the command line: `unpact unlearn`, `unpact unlearn-sequence` and `unpact tune`."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.interrupts import command, go_on, interruptible, kept_checkpoint
from unpact_lens.cli.options import (
    AsJson,
    BenchmarkName,
    Chat,
    Checkpoint,
    DataPath,
    Html,
    MaxNewTokens,
    Method,
    Model,
    ModelOut,
    Out,
    Png,
    Prefill,
    Seed,
    Set,
    StopAt,
    asking,
    load,
    load_benchmark,
    path,
)
from unpact_lens.cli.outputs import Outputs
from unpact_lens.cli.values import read_ranges, read_settings
from unpact_lens.console import form_of, print_json, print_line, print_table
from unpact_lens.errors import InputError
from unpact_lens.progress import progress_bar
from unpact_lens.results import read_json

if TYPE_CHECKING:
    from unpact_lens.data.benchmark import Benchmark
    from unpact_lens.evaluation import Scores
    from unpact_lens.models.hooked import HookedModel
    from unpact_lens.unlearning import Unlearned

LITTLE = 0.1
"""Forgetting below which `unpact unlearn` says that almost nothing is forgotten."""

CheckpointEvery = Annotated[
    int, typer.Option("--checkpoint-every", min=1, help="Number of steps between two states in --checkpoint.")
]


@app.command(
    epilog="Example: `unpact unlearn --method npo_gdr --stop-at 0.05 --out runs/npo --checkpoint runs/npo-state`"
)
def unlearn(
    method: Method,
    out: ModelOut,
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    stop_at: StopAt = None,
    seed: Seed = 0,
    settings: Set = None,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Search lr (and steps) first, for about two minutes; what --set gives is fixed."),
    ] = False,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = 50,
    score: Annotated[
        bool, typer.Option("--score/--no-score", help="Measure F and D afterwards, by asking both models.")
    ] = True,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Unlearn the forget set of a benchmark, save the model, and say what was forgotten and destroyed."""
    import unpact_lens as ul

    outputs = Outputs(out, html, png, checkpoint)
    hyperparameters = read_settings(settings, of=ul.unlearn, also="keep")
    searched = "auto" if auto else None
    check_method(method, searched, hyperparameters)
    with interruptible(lambda: kept_checkpoint(checkpoint, checkpoint_every)):
        bench = load_benchmark(benchmark, data, asking(chat, prefill, max_new_tokens))
        original = load(model)
        result = ul.unlearn(
            original, bench, method=method, seed=seed, stop_at=stop_at, checkpoint=checkpoint,
            checkpoint_every=checkpoint_every, settings=searched, **hyperparameters,
        )  # fmt: skip
    outputs.keep(result)
    scores = None
    if score:
        with interruptible(f"the unlearned model is saved in {out}; F and D were not measured"):
            scores = measured(result, original, bench)
    said = summary(result, scores)
    following = next_command(out, model, benchmark, data)
    if as_json:
        print_json({**said, "out": str(out), "next": following})
        return
    print_summary(said, f"{method} on {bench.name}")
    print_line(f"saved in {out}; its history of {len(result.history.rows)} rows is in the result")
    print_line(f"next: {following}", style="bold")


def check_method(name: str, searched: str | None = None, given: Collection[str] = ()) -> None:
    """Refuse an unknown method, or one that cannot be searched, before any model is loaded.

    Args:
        name: Name of the method.
        searched: Argument `settings` of `unlearn`.
        given: Names of the hyperparameters that are given.

    Raises:
        InputError: If there is no such method, or its hyperparameters cannot be searched.
    """
    from unpact_lens.unlearning.auto_settings import check_auto
    from unpact_lens.unlearning.registry import find

    check_auto(searched, find(name), given)


def measured(result: Unlearned, original: HookedModel, bench: Benchmark) -> Scores | None:
    """Measure F and D by the fact-span match; None if the benchmark has no questions."""
    import unpact_lens as ul

    asked = replace(bench, general=(), unknown=())
    if not asked.all_items():
        return None
    with progress_bar("measuring F and D"):
        return ul.evaluate(result.model, asked, ["fact_span"], before=original)


def summary(result: Unlearned, scores: Scores | None) -> dict[str, object]:
    """Return what a run did: steps, reason of the end, F, D, D_trained, the verdict so far, and warnings."""
    from unpact_lens.evaluation import verdict

    steps = max((int(row["step"]) for row in result.history.rows if "step" in row), default=0)
    said: dict[str, object] = {"method": result.method, "seed": result.seed, "steps": steps, "stopped": result.stopped}
    if result.kept is not None:
        said["kept"] = result.kept
    if result.search:
        said["search"] = [asdict(trial) for trial in result.search]
        said["chosen"] = str(min(result.search, key=lambda trial: trial.rank))
    search = f"search them with `unpact tune --method {result.method}`"
    warnings = [warning.replace("use tune()", search) for warning in result.warnings]
    if scores is not None:
        judged = verdict(scores.forgetting, scores.destruction, {})
        for name, estimate in (
            ("F", scores.forgetting),
            ("D", scores.destruction),
            ("D_trained", scores.destruction_trained),
            ("memorised retention", scores.memorised_retention),
        ):
            said[name] = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
        said["verdict so far"] = str(judged)
        said["why"] = "; ".join(judged.reasons.values())
        if scores.forgetting.n == 0:
            warnings.append("F is undefined: the original model knows none of the forget facts")
        elif scores.forgetting.value < LITTLE and not any(w.startswith("F = ") for w in warnings):
            warnings.append(
                f"F = {scores.forgetting.value:.2f}: almost nothing is forgotten; raise lr or steps, or {search}"
            )
        if scores.destruction.n == 0:
            warnings.append("D is undefined: the original model knows none of the unseen retain facts of a group")
    said["warnings"] = warnings
    return said


def next_command(out: Path, model: str, benchmark: str, data: Path | None) -> str:
    """Return the command that probes the unlearned model."""
    parts = ["unpact", "recover", str(out), "--before", model]
    if model == "builtin":
        parts += ["--control", "builtin-retrain"]
    if benchmark != "builtin":
        parts += ["--benchmark", benchmark]
    if data is not None:
        parts += ["--data", str(data)]
    return shlex.join(parts)


def print_summary(said: dict[str, object], title: str) -> None:
    """Print the summary of a run, one line for each thing."""
    kept = f"; step {said['kept']} is kept, the best check" if "kept" in said else ""
    print_line(f"{title}: {said['steps']} steps, {said['stopped']}{kept}", style="bold")
    if "chosen" in said:
        print_line(f"  settings found by --auto: {said['chosen']}")
    for name, meaning in (
        ("F", "forget facts forgotten"),
        ("D", "unseen retain facts destroyed"),
        ("D_trained", "retain facts destroyed that the method was given"),
        ("memorised retention", "unseen retain facts: D minus D_trained"),
    ):
        found = said.get(name)
        if isinstance(found, dict) and found["n"]:
            ends = f"[{found['low']:.3f}, {found['high']:.3f}]"
            print_line(f"  {name} = {found['value']:.3f} {ends} of {found['n']} {meaning}")
    if "verdict so far" in said:
        print_line(f"  verdict so far: {said['verdict so far']} ({said['why']})")
    warnings = said["warnings"]
    for warning in warnings if isinstance(warnings, list) else []:
        print_line(f"  warning: {warning}", style="bold yellow")


@app.command("unlearn-sequence", epilog="Example: `unpact unlearn-sequence --method o3 --requests 3 --out runs/o3`")
def unlearn_sequence(
    method: Method,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", parser=path, metavar="DIRECTORY", help="Directory to save the models and the record to."
        ),
    ],
    requests: Annotated[
        int, typer.Option(min=1, help="Number of requests that the forget set is split into, by subject.")
    ] = 2,
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    stop_at: StopAt = None,
    seed: Seed = 0,
    settings: Set = None,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = 50,
    as_json: AsJson = False,
) -> None:
    """Unlearn one request after another, and report F of each request, D and D_trained after each step."""
    import unpact_lens as ul
    from unpact_lens.unlearning.sequential import split_requests
    from unpact_lens.unlearning.unlearn import asked_as

    outputs = Outputs(out, checkpoint=checkpoint)
    given = read_settings(settings, of=ul.unlearn)
    check_method(method)

    def kept() -> str:
        if checkpoint is None:
            return kept_checkpoint(None, checkpoint_every)
        begun = len(list(checkpoint.glob("request-*/state.json")))
        return f"the states of {begun} of {requests} requests are kept in {checkpoint}; {go_on()}"

    with interruptible(kept):
        bench = load_benchmark(benchmark, data, asking(chat, prefill, max_new_tokens))
        parts = split_requests(bench.forget, requests)
        hyperparameters = {**asked_as(bench, ul.unlearning.registry.find(method)), **given}
        result = ul.unlearning.unlearn_sequence(
            load(model), parts, bench.retain, unseen=bench.unseen, method=method, seed=seed, stop_at=stop_at,
            checkpoint=checkpoint, checkpoint_every=checkpoint_every, **hyperparameters,
        )  # fmt: skip
    outputs.keep(result)
    print_table(
        result.to_frame(), form_of(as_json=as_json), title=f"{method}: {requests} requests, one after the other"
    )


@app.command(epilog="Example: `unpact tune --method npo_gdr --budget 12 --range lr=1e-5..1e-3 --set steps=100`")
def tune(
    method: Method,
    budget: Annotated[int, typer.Option(min=1, help="Number of runs.")] = 20,
    level: Annotated[
        float, typer.Option(min=0, max=1, help="Share of forget facts still known at which a run stops.")
    ] = 0.05,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", "-r", help="NAME=LOW..HIGH to search, on a log scale. May be given several times."),
    ] = None,
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    seed: Seed = 0,
    settings: Set = None,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    checkpoint: Checkpoint = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Search the hyperparameters that destroy the fewest validation facts at a matched forgetting level, best first."""
    import unpact_lens as ul

    outputs = Outputs(out, checkpoint=checkpoint)
    fixed, space = read_settings(settings, of=ul.unlearn), read_ranges(ranges)
    check_method(method)

    def kept() -> str:
        if checkpoint is None:
            return kept_checkpoint(None, 1)
        try:
            done = len(read_json(checkpoint / "trials.json")["trials"])
        except (OSError, InputError, KeyError, TypeError):
            return f"no finished run is in {checkpoint} yet; start again with: {command()}"
        return f"{done} of {budget} finished runs are kept in {checkpoint}; {go_on()}"

    with interruptible(kept):
        bench = load_benchmark(benchmark, data, asking(chat, prefill, max_new_tokens))
        result = ul.unlearning.tune(
            method, load(model), bench, space=space, budget=budget, level=level, seed=seed, checkpoint=checkpoint,
            **fixed,
        )  # fmt: skip
    outputs.keep(result)
    best = [f"--set {name}={value:.4g}" for name, value in result.best.items()]
    title = f"{method}, {budget} runs: objective {result.value:.3f} at {' '.join(best)}"
    frame = result.to_frame()
    if not as_json:
        searched = [name for name in frame.columns if name in result.best]
        frame = frame[[*searched, *(name for name in frame.columns if name not in searched)]]
    print_table(frame, form_of(as_json=as_json), title=title)
    if not as_json:
        if not any(trial["reached"] for trial in result.trials):
            print_line(f"warning: no run reached level {level}; widen the ranges, or give more steps", "bold yellow")
        fixed_again = [f"--set {shlex.quote(pair)}" for pair in settings or []]
        print_line(
            f"next: unpact unlearn --method {method} {' '.join([*best, *fixed_again])} --stop-at {level} --out …",
            style="bold",
        )
