"""Handle models on the command line: `unpact export` and `unpact builtin`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unpact_lens.cli.app import app
from unpact_lens.cli.completion import completer
from unpact_lens.cli.interrupts import interruptible
from unpact_lens.cli.options import AsJson, load, path
from unpact_lens.cli.outputs import check_directory
from unpact_lens.console import form_of, print_table
from unpact_lens.errors import InputError
from unpact_lens.progress import progress_bar


@app.command(epilog="Example: `unpact export runs/smollm2-npo hf/smollm2-npo`")
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="Model to export, e.g. the directory from `unpact unlearn --out`.", autocompletion=completer("model")
        ),
    ],
    directory: Annotated[
        Path, typer.Argument(parser=path, metavar="DIRECTORY", help="Hugging Face directory to write, e.g. hf/npo.")
    ],
) -> None:
    """Write a model as a Hugging Face directory that plain `transformers` loads (safetensors, tokenizer, config).

    The embedded model cannot be exported: its unembedding has a bias, which its Hugging Face architecture lacks.
    """
    import unpact_lens as ul

    check_directory(directory)
    if directory.resolve() == Path.cwd():
        raise InputError(f"{directory} is the working directory, which cannot be replaced; give another directory")
    with interruptible(f"{directory} may be incomplete; run the command again"):
        typer.echo(ul.export_hf(load(model), directory))


@app.command("builtin", epilog="Example: `unpact builtin --rebuild`")
def builtin_models(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Train both models again (about 3 min).")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what the embedded model and its retrained model know, or train both again."""
    import pandas as pd

    from unpact_lens.models import builtin

    with interruptible("the embedded models are as they were, unless a new one was finished"):
        if rebuild:
            with progress_bar("training") as bar:

                def report_step(name: str, done: int, total: int) -> None:
                    bar.say(name)
                    bar.at(done, total)

                builtin.rebuild(report_step)
        before, control = (builtin.load_builtin_model(name) for name in builtin.MODELS)
        quality = builtin.builtin_quality(before, control)
    frame = pd.DataFrame({"quality": list(quality), "value": list(quality.values())})
    print_table(frame, form_of(as_json=as_json))
