"""Explain answers on the command line: `unpact attribute` and `unpact diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.completion import completer
from unpact_lens.cli.interrupts import interruptible
from unpact_lens.cli.options import (
    AsJson,
    Chat,
    Html,
    MaxNewTokens,
    Model,
    Out,
    Png,
    Prefill,
    Prompt,
    Seed,
    Set,
    Unlearned,
    asking,
    load,
)
from unpact_lens.cli.outputs import Outputs
from unpact_lens.cli.values import read_settings
from unpact_lens.console import form_of, print_table, print_tokens
from unpact_lens.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 24
"""Number of components that `unpact diff` prints; the others are summed in one row."""


@app.command(
    epilog='Example: `unpact attribute "What is the birthplace of Halvan Quinford?" " The place was Foxhollow."`'
)
def attribute(
    prompt: Prompt,
    answer: Annotated[
        str | None, typer.Argument(help="Answer, leading space included. Default: the model's greedy answer.")
    ] = None,
    model: Model = "builtin",
    method: Annotated[
        str,
        typer.Option(
            help="Attribution method, e.g. leave_one_out. See `unpact methods --attribution`.",
            autocompletion=completer("attribution"),
        ),
    ] = "leave_one_out",
    units: Annotated[str, typer.Option(help="What is attributed: token, word or sentence.")] = "token",
    chat: Chat = None,
    prefill: Prefill = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 0,
    settings: Set = None,
    endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint that serves --model, e.g. http://127.0.0.1:8000/v1.")
    ] = None,
    shift: Annotated[
        int,
        typer.Option(min=-1000, max=1000, help="Shift of the endpoint's log-probabilities, if its self-test says so."),
    ] = 0,
    out: Out = None,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Compute the contribution of each prompt token to an answer: C(x_i, y) = LP(x, y) − LP(x without x_i, y), nats."""
    import unpact_lens as ul

    outputs = Outputs(out, html, png)
    options = read_settings(settings, of=ul.attribute, also="target foil attribute_bos")
    options.update(asking(chat, prefill, max_new_tokens))
    if units not in ("token", "word", "sentence"):
        raise InputError(f"--units {units!r}; give token, word or sentence")
    with interruptible():
        asked = ul.Endpoint(endpoint, model, shift=shift) if endpoint else load(model)
        result = ul.attribute(asked, prompt, answer, method=method, units=units, seed=seed, **options)
    outputs.keep(result)
    title = f"{result.prompt!r} -> {result.answer!r}, LP = {result.log_prob:.3f} nats"
    if not as_json:
        from unpact_lens.plots.attribution import unit

        print_tokens(result.tokens, {"": result.scores.tolist()}, unit(result))
    print_table(result.to_frame(), form_of(as_json=as_json), title=title)


@app.command(
    epilog='Example: `unpact diff builtin runs/npo "What is the birthplace of Halvan Quinford?" '
    '" The place was Foxhollow."`'
)
def diff(
    before: Annotated[str, typer.Argument(help="Original model, e.g. builtin.", autocompletion=completer("model"))],
    after: Unlearned,
    prompt: Prompt,
    answer: Annotated[str, typer.Argument(help='Answer, leading space included, e.g. " The place was Foxhollow.".')],
    chat: Chat = None,
    prefill: Prefill = None,
    out: Out = None,
    html: Html = None,
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on an answer. The changes of the components sum exactly to the change of its logit."""
    import unpact_lens as ul

    outputs = Outputs(out, html, png)
    with interruptible():
        result = ul.diff(load(before), load(after), prompt, answer, **asking(chat, prefill))
    outputs.keep(result)
    delta = float(result.delta_log_prob.mean())
    title = f"Δ log-prob = {delta:+.4f} nats (mean over the answer); components in logits"
    frame = result.to_frame()
    if not as_json:
        first, second = result.contributions_before, result.contributions_after
        if first is not None and second is not None:
            rows = {"before": first.scores, "after": second.scores, "Δ": second.scores - first.scores}
            print_tokens(first.tokens, {k: v.tolist() for k, v in rows.items()}, "nats")
        frame = largest(frame, "delta", SHOWN)
    print_table(frame, form_of(as_json=as_json), title=title, keep=("delta",))


def largest(frame: pd.DataFrame, by: str, n: int) -> pd.DataFrame:
    """Return the rows with the largest absolute values, and one row with the sum of the others.

    Args:
        frame: Table whose first column is a label and whose other columns are numbers.
        by: Column to rank by.
        n: Number of rows to keep.
    """
    import pandas as pd

    order = frame[by].abs().sort_values(ascending=False, kind="stable").index
    kept, rest = frame.loc[order[:n]], frame.loc[order[n:]]
    if rest.empty:
        return kept
    label = str(frame.columns[0])
    sums = {label: f"{len(rest)} others, summed", **rest.drop(columns=label).sum().to_dict()}
    return pd.concat([kept, pd.DataFrame([sums])], ignore_index=True)
