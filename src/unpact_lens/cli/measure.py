"""Measure models on the command line: `unpact recover`, `unpact evaluate` and `unpact known-facts`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.completion import completer
from unpact_lens.cli.interrupts import interruptible
from unpact_lens.cli.options import (
    AsJson,
    BenchmarkName,
    Chat,
    DataPath,
    Html,
    MaxNewTokens,
    Name,
    Out,
    Png,
    Prefill,
    Seed,
    Unlearned,
    asking,
    load,
    load_benchmark,
    load_if,
)
from unpact_lens.cli.outputs import Outputs
from unpact_lens.console import form_of, print_line, print_table
from unpact_lens.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.recovery import ProbingOptions, Recovery

Control = Annotated[
    str | None,
    typer.Option(
        help="Retrained model (trained without the forget set), e.g. builtin-retrain.",
        autocompletion=completer("model"),
    ),
]


@app.command(epilog="Example: `unpact recover runs/npo --before builtin --control builtin-retrain --probe prefill`")
def recover(
    after: Unlearned,
    before: Annotated[
        str, typer.Option(help="Original model, e.g. builtin.", autocompletion=completer("model"))
    ] = "builtin",
    control: Control = None,
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="Probe to ask besides emphasis, e.g. prefill, or all. May be repeated. See `unpact methods --probes`. "
            "Default: prefill and relearn.",
            autocompletion=completer("probe"),
        ),
    ] = None,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    out: Out = None,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Try to recover the forgotten facts by emphasis on the key tokens and by probes, with all controls."""
    import unpact_lens as ul

    outputs = Outputs(out, html, png)
    options: ProbingOptions = {"seed": seed}
    if probe:
        options["probes"] = "all" if probe == ["all"] else probe
    with interruptible():
        bench = load_benchmark(benchmark, data, asking(chat, prefill, max_new_tokens))
        check_probes(options)
        result = ul.recover(load(after), bench, before=load(before), control=load_if(control), **options)
    outputs.keep(result)
    print_table(
        recovery_table(result, as_json), form_of(as_json=as_json), title=f"recovery, n = {result.n_common} facts"
    )
    if not as_json:
        reasons = [f"{name}: left out, {why}" for name, why in result.settings.get("without_effect", {}).items()]
        for reason in filter(None, [no_common_facts(result), *reasons]):
            print_line(reason, style="bold yellow")


def check_probes(options: ProbingOptions) -> None:
    """Refuse unknown probes before any model is loaded.

    Raises:
        InputError: If there is one.
    """
    from unpact_lens.recovery import Probing
    from unpact_lens.recovery.probes.registry import checked

    checked(Probing(**options))


def recovery_table(result: Recovery, as_json: bool) -> pd.DataFrame:
    """Return the table of a recovery, for a terminal with its columns ordered by importance."""
    frame = result.to_frame()
    if as_json:
        return frame
    excess, net = (["excess", "excess low", "excess high", "excess p"], ["net", "net low", "net high", "p"])
    order = ["probe", "R", "low", "high", "n", *excess, "control", "never known", *net, "before", "family"]
    return frame[[name for name in order if name in frame.columns]]


def no_common_facts(result: Recovery) -> str | None:
    """Say why no fact can be measured; None if some can."""
    if result.n_common:
        return None
    total, known = len(result.items), int(result.plain_before.sum())
    still = int((result.plain_before & result.plain_after).sum())
    if total == 0:
        return "n = 0: there are no forget facts"
    if known == 0:
        return f"n = 0: the original model answers none of the {total} forget facts"
    if still == known:
        return f"n = 0: the unlearned model still answers all {known} facts that the original model knows"
    return (
        f"n = 0: of {known} facts that the original model knows, {still} are still answered, "
        f"{len(result.excluded)} are given away by a prompt, and the others fail in the original model under a prompt "
        "that is compared"
    )


@app.command(epilog="Example: `unpact evaluate runs/npo --before builtin --reference builtin-retrain --markdown`")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Model to evaluate, e.g. the directory from `unpact unlearn --out`.", autocompletion=completer("model")
        ),
    ],
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric, e.g. rouge_l. See `unpact methods --metrics`. May be repeated.",
            autocompletion=completer("metric"),
        ),
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="Original model, e.g. builtin.", autocompletion=completer("model"))
    ] = None,
    reference: Control = None,
    nli: Annotated[
        str | None, typer.Option(help="NLI model of the metric entailment: a directory or a hub id.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Endpoint of the metric judge, e.g. http://127.0.0.1:8000/v1.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the judge at its endpoint.")] = None,
    beside: Annotated[str | None, typer.Option(help="Published table to print beside, e.g. muse-news.")] = None,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    out: Out = None,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on a benchmark: metrics by group, forgetting, destruction of unseen facts, published values."""
    import unpact_lens as ul

    outputs = Outputs(out, html, png)
    if (judge is None) != (judge_model is None):
        raise InputError("--judge URL and --judge-model NAME go together; give both")
    form = form_of(as_json=as_json, markdown=markdown, latex=latex)
    table = ul.evaluation.published(beside) if beside else None
    names = [*(metric or ()), *(table.metrics if table else ())] or None
    asked = ul.evaluation.Judge(judge, judge_model) if judge and judge_model else None
    with interruptible():
        bench = load_benchmark(benchmark, data, asking(chat, prefill, max_new_tokens))
        scores = ul.evaluate(
            load(model), bench, names, before=load_if(before), reference=load_if(reference), nli=nli, judge=asked
        )
    outputs.keep(scores)
    frame = table.beside({Path(model).name: scores}) if table else scores.to_frame()
    in_text = form in ("markdown", "latex")
    print_table(frame.reset_index() if table and not in_text else frame, form, title=bench.name)
    if form == "table" and table is None and "n" in frame:
        for row in frame[frame["n"] == 0].itertuples(index=False):
            print_line(
                f"{row.metric} of {row.group}: n = 0, the original model knows none of these facts", style="yellow"
            )


@app.command("known-facts", epilog="Example: `unpact known-facts smollm2 --benchmark facts --set relations=all`")
def known_facts(
    model: Name = "builtin",
    benchmark: BenchmarkName = "builtin",
    data: DataPath = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Option of the benchmark, e.g. relations=all. May be given several times."),
    ] = None,
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    as_json: AsJson = False,
) -> None:
    """Count the facts of a benchmark that a model knows, by group and relation, beside the rate of guessing."""
    import unpact_lens as ul

    with interruptible():
        bench = load_benchmark(benchmark, data, asking(chat, prefill, max_new_tokens), settings)
        frame = ul.evaluation.knowledge(load(model), bench)
    print_table(frame, form_of(as_json=as_json), title=bench.name)
