"""Draw every conclusion under every choice, and keep what is finished."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from experiments.focus.focus_study import measured_facts, spread, unlearned_model
from experiments.sensitivity.choices import CHOICES, Choice
from experiments.sensitivity.conclusions import Conclusions, Evidence, conclusions
from experiments.shared.experiment_key import experiment_key
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.folder import MARK, open_folder, read_folder
from unpact_lens.study.run_study import arithmetic, step_bar
from unpact_lens.study.workspace import Workspace


def sensitivity_study(
    config: StudyConfig,
    out: str | os.PathLike[str],
    *,
    models: str | os.PathLike[str] | None = None,
    choices: Sequence[Choice] = CHOICES,
    track_every: int = 3,
    progress: bool = True,
) -> pd.DataFrame:
    """Draw every conclusion under every choice; finished choices are loaded.

    Args:
        config: Configuration that names the methods and the held-out paraphrases.
        out: Directory of the finished choices.
        models: Directory of a `focus_study` with the same configuration, whose unlearned models are loaded; `out` if
            None.
        choices: Choices, with the baseline first.
        track_every: Value of `track_every` in that `focus_study`.
        progress: Report progress on stderr.

    Returns:
        The rows of `Conclusions` of all choices.

    Raises:
        InputError: As `conclusions`.
    """
    marked = models is not None and (Path(models) / MARK).is_file()
    threads = read_folder(models).threads if models is not None and marked else None
    opened = open_folder(out, config, threads)
    config = config.model_copy(update={"threads": threads or opened.threads})
    with arithmetic(config), step_bar(config, progress) as step:
        space = Workspace(config, Path(models or out), step)
        forget = measured_facts(space)["forget"]
        afters = {
            m.name: [
                unlearned_model(space, m, seed, track=forget, track_every=track_every).model for seed in config.seeds
            ]
            for m in config.methods
        }
        retain = spread(space.bench.unseen or space.bench.retain, config.contributions.retain)
        evidence = Evidence(space.model, afters, space.bench, forget, retain, space.batch_tokens)
        weights = {m: [model_fingerprint(model) for model in found] for m, found in afters.items()}
        kept = Workspace(config, Path(out), step)
        found = []
        for number, choice in enumerate(choices):

            def run(choice: Choice = choice) -> Conclusions:
                step(f"{choice.dimension}: {choice.name}")
                return conclusions(choice, evidence)

            key = experiment_key(
                space, "choice", choice=asdict(choice), rule=repr(choice.rule), weights=weights, seed=evidence.seed,
                facts=[asdict(q) for q in (*evidence.forget, *evidence.retain)],
            )  # fmt: skip
            found.append(kept.kept(f"choices/{number:02d}", key, run).to_frame())
        return pd.concat(found, ignore_index=True)
