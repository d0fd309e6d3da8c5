"""Define the command line `unpact …`: one short command for each public function.

Results are printed on stdout, progress and errors on stderr. Exit status: 0 success, 2 wrong input, 1 internal error,
130 interrupted (finished work is kept, and the same command resumes it).
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpact_lens.console import form_of, print_table, read_ranges, read_settings, save, show
from unpact_lens.errors import InputError
from unpact_lens.progress import progress_bar

if TYPE_CHECKING:
    from unpact_lens.models.hooked import HookedModel

app = typer.Typer(
    name="unpact",
    help="Show why LLM unlearning works, fails or destroys, token by token and head by head, with controls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Name = Annotated[str, typer.Argument(help="Model: builtin, smollm2, a local directory or a hub id.")]
Unlearned = Annotated[str, typer.Argument(help="Unlearned model, e.g. the directory from `unpact unlearn --out`.")]
Prompt = Annotated[str, typer.Argument(help='Prompt, e.g. "Where was Alma Reyes born?".')]
Model = Annotated[str, typer.Option("--model", "-m", help="builtin, smollm2, a local directory or a hub id.")]
Original = Annotated[str | None, typer.Option("--before", help="Original model, e.g. builtin.")]
BenchmarkName = Annotated[str, typer.Option("--benchmark", "-b", help="Benchmark, e.g. builtin, facts or tofu.")]
DataPath = Annotated[Path | None, typer.Option("--data", help="Directory with the benchmark's files. Default: hub.")]
Method = Annotated[str, typer.Option("--method", help="Unlearning method, e.g. npo_gdr. See `unpact methods`.")]
StopAt = Annotated[
    float | None,
    typer.Option("--stop-at", help="Stop when the model knows at most this share of the forget facts, e.g. 0.05."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Hyperparameter, e.g. lr=1e-4. May be given several times.")
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed, e.g. 1.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Directory to save the result to, e.g. runs/mine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command(epilog="Example: `unpact demo --model smollm2`")
def demo(
    model: Annotated[str, typer.Option("--model", "-m", help="builtin (3 min) or smollm2 (25 min).")] = "builtin",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Run the demo: unlearn with six methods, show the changes, try to recover the facts, and give verdicts."""
    names = {"builtin": "demo", "smollm2": "demo-smollm2"}
    if model not in names:
        raise InputError(f"the demo runs on 'builtin' or 'smollm2', not {model!r}; for other models see `unpact study`")
    _study(names[model], out, as_json)


@app.command(epilog="Example: `unpact study my-study.yaml --out runs/my-study`")
def study(
    config: Annotated[str, typer.Argument(help="YAML file or name of a shipped configuration, e.g. demo.")],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Run every method and seed of a study. Finished runs are kept and not repeated."""
    _study(config, out, as_json)


@app.command(epilog="Example: `unpact report runs/demo`")
def report(
    folder: Annotated[Path, typer.Argument(help="Directory of a finished study, e.g. runs/demo.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file to write. Default: report.html in the directory.")
    ] = None,
) -> None:
    """Write the HTML report of a finished study again."""
    import unpact_lens as ul
    from unpact_lens.study import Study

    result = ul.load(folder)
    if not isinstance(result, Study):
        raise InputError(f"{folder} holds a {type(result).__name__}, not a study; give what `unpact study --out` wrote")
    typer.echo(ul.write_report(result, out or folder / "report.html"))


@app.command(epilog='Example: `unpact attribute "Where was Alma Reyes born?" " Oslo"`')
def attribute(
    prompt: Prompt,
    answer: Annotated[
        str | None, typer.Argument(help="Answer, leading space included. Default: the model's greedy answer.")
    ] = None,
    model: Model = "builtin",
    method: Annotated[
        str, typer.Option(help="Attribution method, e.g. leave_one_out. See `unpact methods --attribution`.")
    ] = "leave_one_out",
    chat: Annotated[bool, typer.Option(help="Use the tokenizer's chat template.")] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint that serves --model, e.g. http://127.0.0.1:8000/v1.")
    ] = None,
    shift: Annotated[
        int, typer.Option(help="Shift of the endpoint's log-probabilities, if its self-test says so.")
    ] = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Compute the contribution of each prompt token to an answer: C(x_i, y) = LP(x, y) − LP(x without x_i, y), nats."""
    import unpact_lens as ul

    asked = ul.Endpoint(endpoint, model, shift=shift) if endpoint else _load(model)
    result = ul.attribute(asked, prompt, answer, method=method, chat=chat)
    show(result, out, as_json, title=f"{result.prompt!r} -> {result.answer!r}, LP = {result.log_prob:.3f} nats")


@app.command(epilog='Example: `unpact diff builtin runs/npo "Where was Alma Reyes born?" " Oslo"`')
def diff(
    before: Annotated[str, typer.Argument(help="Original model, e.g. builtin.")],
    after: Unlearned,
    prompt: Prompt,
    answer: Annotated[str, typer.Argument(help='Answer, leading space included, e.g. " Oslo".')],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on an answer. The changes of the components sum exactly to the change of its logit."""
    import unpact_lens as ul

    result = ul.diff(_load(before), _load(after), prompt, answer)
    delta = float(result.delta_log_prob.mean())
    show(result, out, as_json, title=f"Δ log-prob = {delta:+.4f} nats (mean over the answer); components in logits")


@app.command(epilog="Example: `unpact unlearn --method npo_gdr --set lr=5e-4 --out runs/npo`")
def unlearn(
    method: Method,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to save the unlearned model to.")],
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    stop_at: StopAt = None,
    seed: Seed = 0,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Unlearn the forget set of a benchmark and save the model."""
    import unpact_lens as ul

    hyperparameters = read_settings(settings)
    bench = ul.load_benchmark(benchmark, path=data)
    result = ul.unlearn(_load(model), bench, method=method, seed=seed, stop_at=stop_at, **hyperparameters)
    show(result, out, as_json, title=f"{method}: history")


@app.command("unlearn-sequence", epilog="Example: `unpact unlearn-sequence --method o3 --requests 3 --out runs/o3`")
def unlearn_sequence(
    method: Method,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to save the models and the record to.")],
    requests: Annotated[
        int, typer.Option(help="Number of requests that the forget set is split into, by subject.")
    ] = 2,
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    stop_at: StopAt = None,
    seed: Seed = 0,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Unlearn one request after another, and report F of each request and D after each step."""
    import unpact_lens as ul
    from unpact_lens.unlearning.sequential import split_requests

    hyperparameters = {**read_settings(settings), "method": method, "seed": seed, "stop_at": stop_at}
    bench = ul.load_benchmark(benchmark, path=data)
    parts = split_requests(bench.forget, requests)
    result = ul.unlearning.unlearn_sequence(_load(model), parts, bench.retain, **hyperparameters)
    show(result, out, as_json, title=f"{method}: {requests} requests, one after the other")


@app.command(epilog="Example: `unpact tune --method npo_gdr --budget 12 --range lr=1e-5..1e-3 --set steps=100`")
def tune(
    method: Method,
    budget: Annotated[int, typer.Option(help="Number of runs.")] = 20,
    level: Annotated[float, typer.Option(help="Share of forget facts still known at which a run stops.")] = 0.05,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", "-r", help="NAME=LOW..HIGH to search, on a log scale. May be given several times."),
    ] = None,
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    seed: Seed = 0,
    settings: Set = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Search the hyperparameters with the least destruction at a matched forgetting level. Lists the best run first."""
    import unpact_lens as ul

    fixed = {**read_settings(settings), "budget": budget, "level": level, "seed": seed}
    space = read_ranges(ranges)
    bench = ul.load_benchmark(benchmark, path=data)
    result = ul.unlearning.tune(method, _load(model), bench, space=space, **fixed)
    best = " ".join(f"--set {name}={value:.3g}" for name, value in result.best.items())
    show(result, out, as_json, title=f"{method}, {budget} runs: objective {result.value:.3f} at {best}")


@app.command(epilog="Example: `unpact recover runs/npo --before builtin --control builtin-retrain`")
def recover(
    after: Unlearned,
    before: Annotated[str, typer.Option(help="Original model, e.g. builtin.")] = "builtin",
    control: Annotated[
        str | None, typer.Option(help="Retrained model (trained without the forget set), e.g. builtin-retrain.")
    ] = None,
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Try to recover the forgotten facts by emphasis on the key tokens, with all controls."""
    import unpact_lens as ul

    bench = ul.load_benchmark(benchmark, path=data)
    result = ul.recover(_load(after), bench, before=_load(before), control=_load_if(control), seed=seed)
    show(result, out, as_json, title="recovery")


@app.command(epilog="Example: `unpact evaluate runs/npo --before builtin --reference builtin-retrain --markdown`")
def evaluate(
    model: Annotated[str, typer.Argument(help="Model to evaluate, e.g. the directory from `unpact unlearn --out`.")],
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric, e.g. rouge_l. See `unpact methods --metrics`. May be repeated.")
    ] = None,
    before: Original = None,
    reference: Annotated[
        str | None, typer.Option(help="Retrained model (trained without the forget set), e.g. builtin-retrain.")
    ] = None,
    nli: Annotated[
        str | None, typer.Option(help="NLI model of the metric entailment: a directory or a hub id.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Endpoint of the metric judge, e.g. http://127.0.0.1:8000/v1.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge at its endpoint.")] = None,
    beside: Annotated[str | None, typer.Option(help="Published table to print beside, e.g. muse-news.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on a benchmark: every metric by group, forgetting and destruction, beside published values."""
    import unpact_lens as ul

    if (judge is None) != (judge_model is None):
        raise InputError("--judge URL and --judge-model NAME go together; give both")
    form = form_of(as_json=as_json, markdown=markdown, latex=latex)
    table = ul.evaluation.published(beside) if beside else None
    names = [*(metric or ()), *(table.metrics if table else ())] or None
    bench = ul.load_benchmark(benchmark, path=data)
    scores = ul.evaluate(
        _load(model), bench, names, before=_load_if(before), reference=_load_if(reference), nli=nli,
        judge=ul.evaluation.Judge(judge, judge_model) if judge and judge_model else None,
    )  # fmt: skip
    save(scores, out)
    frame = table.beside({Path(model).name: scores}) if table else scores.to_frame()
    in_text = form in ("markdown", "latex")
    print_table(frame.reset_index() if table and not in_text else frame, form, title=bench.name)


@app.command("known-facts", epilog="Example: `unpact known-facts smollm2 --benchmark facts --set relations=all`")
def known_facts(
    model: Name,
    benchmark: BenchmarkName = "facts",
    data: DataPath = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Option of the benchmark, e.g. relations=all. May be given several times."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count the facts of a benchmark that a model knows, by group and relation, beside the rate of guessing."""
    import unpact_lens as ul

    bench = ul.load_benchmark(benchmark, path=data, **read_settings(settings))
    print_table(ul.evaluation.knowledge(_load(model), bench), form_of(as_json=as_json), title=bench.name)


@app.command(epilog="Example: `unpact export runs/smollm2-npo hf/smollm2-npo`")
def export(
    model: Annotated[str, typer.Argument(help="Model to export, e.g. the directory from `unpact unlearn --out`.")],
    directory: Annotated[Path, typer.Argument(help="Hugging Face directory to write, e.g. hf/npo.")],
) -> None:
    """Write a model as a Hugging Face directory that plain `transformers` loads (safetensors, tokenizer, config).

    The embedded model cannot be exported: its unembedding has a bias, which its Hugging Face architecture lacks.
    """
    import unpact_lens as ul

    typer.echo(ul.export_hf(_load(model), directory))


@app.command(epilog="Example: `unpact methods --attribution`")
def methods(
    attribution: Annotated[bool, typer.Option(help="List attribution methods instead.")] = False,
    metrics: Annotated[bool, typer.Option(help="List metrics instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the unlearning methods, each with a description and its source."""
    import unpact_lens as ul

    frame = ul.attribution_methods() if attribution else ul.metrics() if metrics else ul.methods()
    named = frame if frame.index.name is None else frame.reset_index(names="name")
    print_table(named, form_of(as_json=as_json))


@app.command("builtin", epilog="Example: `unpact builtin --rebuild`")
def builtin_models(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Train both models again (about 3 min).")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what the embedded model and its retrained model know, or train both again."""
    import pandas as pd

    from unpact_lens.models import builtin

    if rebuild:
        with progress_bar("training") as bar:

            def report_step(name: str, done: int, total: int) -> None:
                bar.say(name)
                bar.at(done, total)

            builtin.rebuild(report_step)
    quality = builtin.builtin_quality(*(builtin.load_builtin_model(name) for name in builtin.MODELS))
    frame = pd.DataFrame({"quality": list(quality), "value": list(quality.values())})
    print_table(frame, form_of(as_json=as_json))


def _load(model: str) -> HookedModel:
    """Load a model with the wrapper that fits it."""
    import unpact_lens as ul

    return ul.load_model(model, wrap="auto")


def _load_if(model: str | None) -> HookedModel | None:
    """Load a model if one is named."""
    return _load(model) if model else None


def _study(config: str, out: Path | None, as_json: bool) -> None:
    """Run a study in its directory, `runs/<name>` by default, and print its table."""
    import unpact_lens as ul

    folder = out or Path("runs") / Path(config).stem
    result = ul.run_study(ul.load_config(config), folder)
    print_table(result.to_frame() if as_json else result.summary(), form_of(as_json=as_json), title=result.headline())
    typer.echo(folder / "report.html", err=as_json)


def main() -> None:
    """Run `unpact` and turn errors into one line and an exit status."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except InputError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(2)
    except KeyboardInterrupt:
        typer.secho("interrupted; finished work is kept, and the same command resumes it", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("UNPACT_DEBUG"):
            raise
        kind = type(error).__name__
        typer.secho(f"internal error: {kind}: {error} (UNPACT_DEBUG=1 shows the traceback)", err=True, fg="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
