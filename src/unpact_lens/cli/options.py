"""Define the options that several commands share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpact_lens.cli.completion import completer
from unpact_lens.cli.values import read_settings
from unpact_lens.errors import InputError

if TYPE_CHECKING:
    from unpact_lens.data.benchmark import Benchmark
    from unpact_lens.models.asking import AskingOptions
    from unpact_lens.models.hooked import HookedModel

MOST_SEED = 2**32 - 1
"""Largest random seed that every generator accepts."""

_MODELS = completer("model")


def path(text: str) -> Path:
    """Read a path.

    Raises:
        InputError: If it is empty, which would mean the working directory.
    """
    if not text.strip():
        raise InputError(f"{text!r} is no path; give a directory or a file, e.g. runs/mine")
    return Path(text)


Name = Annotated[
    str, typer.Argument(help="Model: builtin, smollm2, a local directory or a hub id.", autocompletion=_MODELS)
]
Unlearned = Annotated[
    str,
    typer.Argument(help="Unlearned model, e.g. the directory from `unpact unlearn --out`.", autocompletion=_MODELS),
]
Prompt = Annotated[str, typer.Argument(help='Prompt, e.g. "What is the birthplace of Halvan Quinford?".')]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="builtin, smollm2, a local directory or a hub id.", autocompletion=_MODELS),
]
BenchmarkName = Annotated[
    str,
    typer.Option(
        "--benchmark", "-b", help="Benchmark, e.g. builtin, facts or tofu.", autocompletion=completer("benchmark")
    ),
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", parser=path, metavar="PATH", help="Directory or file with the benchmark's data. Default: hub."
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="Unlearning method, e.g. npo_gdr. See `unpact methods`.",
        autocompletion=completer("method"),
    ),
]
StopAt = Annotated[
    float | None,
    typer.Option(
        "--stop-at", min=0, max=1,
        help="Stop when the model knows at most this share of the forget facts, e.g. 0.05.",
    ),
]  # fmt: skip
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Hyperparameter, e.g. lr=1e-4. May be given several times.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED, help="Random seed, e.g. 1.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        parser=path,
        metavar="DIRECTORY",
        help="Directory for the run's state. After an interruption, the same command goes on from it.",
    ),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat", help="Use the tokenizer's chat template. Default: as the benchmark says, else no."
    ),
]
Prefill = Annotated[
    str | None,
    typer.Option("--prefill", help="Answer prefix, given to the model and not scored. Default: the benchmark's."),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", min=1, max=100_000,
        help="Largest number of tokens of a generated answer. Default: the benchmark's, else 24.",
    ),
]  # fmt: skip
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", parser=path, metavar="DIRECTORY", help="Directory to save the result to, e.g. runs/mine."
    ),
]
ModelOut = Annotated[
    Path,
    typer.Option(
        "--out", "-o", parser=path, metavar="DIRECTORY", help="Directory to save the unlearned model to, e.g. runs/npo."
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", parser=path, metavar="FILE", help="HTML file to write the figure to, e.g. figure.html."),
]
Png = Annotated[
    Path | None,
    typer.Option("--png", parser=path, metavar="FILE", help="PNG file to write the figure to."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def load(model: str) -> HookedModel:
    """Load a model with the wrapper that fits it."""
    import unpact_lens as ul

    return ul.load_model(model, wrap="auto")


def load_if(model: str | None) -> HookedModel | None:
    """Load a model if one is named."""
    return load(model) if model else None


def asking(chat: bool | None = None, prefill: str | None = None, max_new_tokens: int | None = None) -> AskingOptions:
    """Return the options of `AskingOptions` that were given."""
    asked: AskingOptions = {}
    if chat is not None:
        asked["chat"] = chat
    if prefill is not None:
        asked["prefill"] = prefill
    if max_new_tokens is not None:
        asked["max_new_tokens"] = max_new_tokens
    return asked


def load_benchmark(name: str, data: Path | None, asked: AskingOptions, settings: list[str] | None = None) -> Benchmark:
    """Load a benchmark that is asked with the given chat template, answer prefix and answer length.

    Args:
        name: Name of the benchmark.
        data: Directory or file of its data, or None.
        asked: Options of asking that were given.
        settings: Options of the benchmark, as `NAME=VALUE`.

    Raises:
        InputError: If there is no such benchmark, or an option of it is unknown or wrong.
    """
    import unpact_lens as ul

    options = read_settings(settings, of=ul.load_benchmark)
    try:
        bench = ul.load_benchmark(name, path=data, **options)
    except (TypeError, OverflowError) as error:  # an option of another type
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise InputError(f"benchmark {name!r} does not accept {given}: {error}") from None
    prefill = asked.get("prefill", bench.prefill)
    return replace(
        bench,
        chat=asked.get("chat", bench.chat),
        prefill=prefill if isinstance(prefill, str) else bench.prefill,
        max_new_tokens=asked.get("max_new_tokens", bench.max_new_tokens),
    )
