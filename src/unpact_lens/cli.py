"""The command line: `unpact …`, thin over the public functions.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 2 the input cannot be worked with, 1 a fault
of ours, 130 interrupted (finished work is kept; the same command goes on from there).
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from unpact_lens.console import print_table, progress_bars, read_ranges, read_settings, show
from unpact_lens.errors import InputError

app = typer.Typer(
    name="unpact",
    help="Why LLM unlearning works, fails or destroys: token by token, head by head, with controls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Model = Annotated[str, typer.Option("--model", "-m", help="builtin, smollm2, a local directory or a hub id.")]
BenchmarkName = Annotated[str, typer.Option("--benchmark", "-b", help="builtin, facts, tofu, ...")]
DataPath = Annotated[Path | None, typer.Option("--data", help="Local files of the benchmark, instead of the hub.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Directory for the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", help="A setting, e.g. lr=1e-4. May be repeated.")]


@app.command(epilog="Example: `unpact demo --model smollm2`")
def demo(
    model: Annotated[str, typer.Option("--model", "-m", help="builtin (3 min) or smollm2 (25 min).")] = "builtin",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Unlearn with six methods, show what changed, try to bring the facts back, and say what became of them."""
    names = {"builtin": "demo", "smollm2": "demo-smollm2"}
    if model not in names:
        raise InputError(f"the demo runs on 'builtin' or 'smollm2', not {model!r}; for other models see `unpact study`")
    _study(names[model], out or Path("runs") / names[model], as_json)


@app.command(epilog="Example: `unpact study my-study.yaml --out runs/my-study`")
def study(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped configuration.")],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Run a study: every method and seed of a configuration. Finished cells are kept and never run again."""
    _study(config, out or Path("runs") / Path(config).stem, as_json)


@app.command(epilog='Example: `unpact attribute "Where was Alma Reyes born?" " Oslo"`')
def attribute(
    prompt: Annotated[str, typer.Argument(help="What the model reads.")],
    answer: Annotated[
        str | None, typer.Argument(help="The answer, leading space included; default: the model's own.")
    ] = None,
    model: Model = "builtin",
    method: Annotated[str, typer.Option(help="One of `unpact methods --attribution`.")] = "leave_one_out",
    chat: Annotated[bool, typer.Option(help="Use the tokenizer's chat template.")] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask this OpenAI-compatible endpoint for --model, e.g. http://127.0.0.1:8000/v1.")
    ] = None,
    shift: Annotated[int, typer.Option(help="Of an endpoint whose self-test asks for it.")] = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Contribution of each prompt token to an answer: C(x_i, y) = LP(x, y) − LP(x without x_i, y), nats."""
    import unpact_lens as ul

    asked = ul.Endpoint(endpoint, model, shift=shift) if endpoint else ul.load_model(model, wrap="auto")
    result = ul.attribute(asked, prompt, answer, method=method, chat=chat)
    show(result, out, as_json, title=f"{result.prompt!r} -> {result.answer!r}, LP = {result.log_prob:.3f} nats")


@app.command(epilog='Example: `unpact diff builtin runs/npo "Where was Alma Reyes born?" " Oslo"`')
def diff(
    before: Annotated[str, typer.Argument(help="The model before.")],
    after: Annotated[str, typer.Argument(help="The model after, e.g. what `unpact unlearn --out` wrote.")],
    prompt: Annotated[str, typer.Argument(help="What both models read.")],
    answer: Annotated[str, typer.Argument(help="The answer, leading space included.")],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """What changed between two models, exactly: the components of the answer's logit sum to its difference."""
    import unpact_lens as ul

    result = ul.diff(ul.load_model(before, wrap="auto"), ul.load_model(after, wrap="auto"), prompt, answer)
    delta = float(result.delta_log_prob.mean())
    show(result, out, as_json, title=f"Δ log-prob = {delta:+.4f} nats (mean over the answer); components in logits")


@app.command(epilog="Example: `unpact unlearn --method npo_gdr --set lr=5e-4 --out runs/npo`")
def unlearn(
    method: Annotated[str, typer.Option(help="One of `unpact methods`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the unlearned model.")],
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    stop_at: Annotated[float | None, typer.Option(help="Stop once this share of forget facts is left.")] = None,
    seed: int = 0,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Unlearn a benchmark's forget set; the model goes to the output directory and can be loaded from there."""
    import unpact_lens as ul

    known = read_settings(settings)
    bench = ul.load_benchmark(benchmark, path=data)
    result = ul.unlearn(ul.load_model(model, wrap="auto"), bench, method=method, seed=seed, stop_at=stop_at, **known)
    show(result, out, as_json, title=f"{method}: history")


@app.command("unlearn-sequence", epilog="Example: `unpact unlearn-sequence --method o3 --requests 3 --out runs/o3`")
def unlearn_sequence(
    method: Annotated[str, typer.Option(help="One of `unpact methods`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the models and the record.")],
    requests: Annotated[int, typer.Option(help="Cut the forget set into so many requests, by subject.")] = 2,
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    stop_at: Annotated[float | None, typer.Option(help="Stop each once this share of its facts is left.")] = None,
    seed: int = 0,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Unlearn request after request; F of every request and D of the retain set after each."""
    import unpact_lens as ul
    from unpact_lens.unlearning.sequential import split_requests

    known = {**read_settings(settings), "method": method, "seed": seed, "stop_at": stop_at}
    bench = ul.load_benchmark(benchmark, path=data)
    parts = split_requests(bench.forget, requests)
    result = ul.unlearn_sequence(ul.load_model(model, wrap="auto"), parts, bench.retain, **known)
    show(result, out, as_json, title=f"{method}: {requests} requests, one after the other")


@app.command(epilog="Example: `unpact tune --method npo_gdr --budget 12 --range lr=1e-5..1e-3 --set steps=100`")
def tune(
    method: Annotated[str, typer.Option(help="One of `unpact methods`.")],
    budget: Annotated[int, typer.Option(help="How many runs.")] = 20,
    level: Annotated[float, typer.Option(help="Share of forget facts left at which a run stops.")] = 0.05,
    ranges: Annotated[
        list[str] | None, typer.Option("--range", "-r", help="NAME=LOW..HIGH to search (log scale). May be repeated.")
    ] = None,
    model: Model = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    seed: int = 0,
    settings: Set = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Search a method's settings for the least destruction at a matched forgetting level; all trials, best first."""
    import unpact_lens as ul

    fixed, space = read_settings(settings), read_ranges(ranges)
    bench = ul.load_benchmark(benchmark, path=data)
    result = ul.tune(
        method, ul.load_model(model, wrap="auto"), bench, budget=budget, level=level, space=space, seed=seed, **fixed
    )  # fmt: skip
    best = " ".join(f"--set {name}={value:.3g}" for name, value in result.best.items())
    show(result, out, as_json, title=f"{method}, {budget} runs: objective {result.value:.3f} at {best}")


@app.command(epilog="Example: `unpact recover runs/npo --before builtin --control builtin-retrain`")
def recover(
    after: Annotated[str, typer.Argument(help="The unlearned model.")],
    before: Annotated[str, typer.Option(help="The model before unlearning.")] = "builtin",
    control: Annotated[str | None, typer.Option(help="A model that never saw the forget set.")] = None,
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    seed: int = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Try to bring the forgotten facts back by emphasising the key tokens, with every control."""
    import unpact_lens as ul

    bench = ul.load_benchmark(benchmark, path=data)
    result = ul.recover(
        ul.load_model(after, wrap="auto"), bench, before=ul.load_model(before, wrap="auto"),
        control=ul.load_model(control, wrap="auto") if control else None, seed=seed,
    )  # fmt: skip
    show(result, out, as_json, title="recovery")


@app.command(epilog="Example: `unpact evaluate runs/npo --before builtin --reference builtin-retrain --markdown`")
def evaluate(
    model: Annotated[str, typer.Argument(help="The model to score, e.g. what `unpact unlearn --out` wrote.")],
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="One of `unpact methods --metrics`; may be repeated.")
    ] = None,
    before: Annotated[str | None, typer.Option(help="The model before unlearning.")] = None,
    reference: Annotated[str | None, typer.Option(help="A model that never saw the forget set.")] = None,
    nli: Annotated[str | None, typer.Option(help="Model of metric entailment: a directory or a hub id.")] = None,
    judge: Annotated[str | None, typer.Option(help="Endpoint of metric judge, e.g. http://127.0.0.1:8000/v1.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The name that the endpoint knows the judge by.")] = None,
    beside: Annotated[str | None, typer.Option(help="Published figures to print beside: muse-news, ...")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a benchmark: every metric by group, forgetting and destruction, beside published figures."""
    import unpact_lens as ul
    from unpact_lens.evaluation import Judge
    from unpact_lens.text_tables import to_latex, to_markdown

    if (judge is None) != (judge_model is None):
        raise InputError("--judge URL and --judge-model NAME go together; give both")
    if markdown + latex + as_json > 1:
        raise InputError("--markdown, --latex and --json exclude each other; give one of them")
    table = ul.published(beside) if beside else None
    names = [*(metric or ()), *(table.metrics if table else ())] or None
    bench = ul.load_benchmark(benchmark, path=data)
    others = {"before": before, "reference": reference}
    compared = {name: ul.load_model(other, wrap="auto") for name, other in others.items() if other}
    asked = Judge(judge, judge_model) if judge and judge_model else None
    scores = ul.evaluate(ul.load_model(model, wrap="auto"), bench, names, nli=nli, judge=asked, **compared)
    if out is not None:
        typer.echo(scores.save(out), err=True)
    frame = table.beside({Path(model).name: scores}) if table else scores.to_frame()
    if markdown or latex:
        typer.echo((to_markdown if markdown else to_latex)(frame), nl=False)
    else:
        print_table(frame.reset_index() if table else frame, as_json, title=bench.name)


@app.command("known-facts", epilog="Example: `unpact known-facts smollm2 --benchmark facts --set relations=all`")
def known_facts(
    model: Annotated[str, typer.Argument(help="builtin, smollm2, a local directory or a hub id.")],
    benchmark: BenchmarkName = "facts",
    data: DataPath = None,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """How many of a benchmark's facts a model gives, by group and relation, beside what guessing would give."""
    import unpact_lens as ul
    from unpact_lens.evaluation import knowledge

    bench = ul.load_benchmark(benchmark, path=data, **read_settings(settings))
    print_table(knowledge(ul.load_model(model, wrap="auto"), bench), as_json, title=bench.name)


@app.command(epilog="Example: `unpact export runs/smollm2-npo hf/smollm2-npo`")
def export(
    model: Annotated[str, typer.Argument(help="The model, e.g. what `unpact unlearn --out` wrote.")],
    directory: Annotated[Path, typer.Argument(help="Where the Hugging Face directory goes.")],
) -> None:
    """Write a model as a Hugging Face directory that plain `transformers` loads (safetensors, tokenizer, config).

    The embedded model has a bias at its unembedding, for which its Hugging Face family has no place: it is refused.
    """
    import unpact_lens as ul

    typer.echo(ul.export_hf(ul.load_model(model, wrap="auto"), directory))


@app.command(epilog="Example: `unpact report runs/demo`")
def report(
    folder: Annotated[Path, typer.Argument(help="Where a study was written.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file; default: report.html there.")] = None,
) -> None:
    """Write the HTML report of a finished study again."""
    import unpact_lens as ul
    from unpact_lens.study import Study

    result = ul.load(folder)
    if not isinstance(result, Study):
        raise InputError(f"{folder} holds a {type(result).__name__}, not a study; give what `unpact study --out` wrote")
    typer.echo(ul.write_report(result, out or folder / "report.html"))


@app.command(epilog="Example: `unpact methods --attribution`")
def methods(
    attribution: Annotated[bool, typer.Option(help="Attribution methods instead.")] = False,
    metrics: Annotated[bool, typer.Option(help="Metrics instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is registered, with one line and the source of each."""
    import unpact_lens as ul

    frame = ul.attribution_methods() if attribution else ul.metrics() if metrics else ul.methods()
    named = frame if frame.index.name is None else frame.reset_index(names="name")
    print_table(named, as_json, title=None)


@app.command("builtin", epilog="Example: `unpact builtin --rebuild`")
def embedded(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Train both models again (about 3 min).")] = False,
    as_json: AsJson = False,
) -> None:
    """The embedded default model and its retrain control: what they know; or train them again."""
    import pandas as pd

    from unpact_lens.models import builtin
    from unpact_lens.models.builtin_quality import builtin_quality

    if rebuild:
        with progress_bars() as told:
            builtin.rebuild(told)
    quality = builtin_quality(*(builtin.load_builtin_model(name) for name in builtin.MODELS))
    print_table(pd.DataFrame({"quality": list(quality), "value": list(quality.values())}), as_json, title=None)


def _study(config: str, out: Path, as_json: bool) -> None:
    import unpact_lens as ul

    result = ul.run_study(ul.load_config(config), out)
    print_table(result.to_frame() if as_json else result.summary(), as_json, title=result.headline())
    typer.echo(out / "report.html", err=as_json)


def main() -> None:
    """Entry point of `unpact`."""
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
        typer.secho("interrupted; finished work is kept, and the same command goes on from there", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("UNPACT_DEBUG"):
            raise
        kind = type(error).__name__
        typer.secho(f"internal error: {kind}: {error} (UNPACT_DEBUG=1 shows the traceback)", err=True, fg="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
