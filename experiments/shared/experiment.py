"""An experiment: one question, one file, and a study for each variant of how the methods were trained.

The file is written and committed before the run. It names the methods; their settings stand in another file, where the
search that is the same for all of them left them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from unpact_lens.errors import InputError, nearest
from unpact_lens.study.config import Strict, StudyConfig, explain, load_config, read_yaml


class Experiment(Strict):
    """What an experiment runs.

    Attributes:
        question: that it answers.
        methods: names of the unlearning methods.
        settings: file, beside the experiment's own, with the settings of each method under its name; what stands there
            under `search` tells where they come from and is not passed on.
        variants: for each variant, settings that all methods are given in it.
        study: every other entry of a `StudyConfig`.
    """

    question: str
    methods: tuple[str, ...] = Field(min_length=1)
    settings: str
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    study: dict[str, Any]


def tuned_settings(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The settings of each method as a search left them, without what tells of the search.

    Args:
        path: the YAML file.

    Raises:
        InputError: if it is missing or not YAML.
    """
    found = read_yaml(str(path))
    return {name: {k: v for k, v in settings.items() if k != "search"} for name, settings in found.items()}


def load_experiment(path: str | os.PathLike[str], seeds: Sequence[int] = ()) -> dict[str, StudyConfig]:
    """The studies of an experiment, one a variant.

    Args:
        path: its YAML file.
        seeds: run these only; none for those of the file.

    Raises:
        InputError: if a file is missing or not YAML, an entry is unknown or wrong, or a method has no settings.
    """
    content = read_yaml(str(path))
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, str(path), Experiment)) from None
    tuned = tuned_settings(Path(path).parent / experiment.settings)
    for name in experiment.methods:
        if name not in tuned:
            raise InputError(f"{path}: {experiment.settings} has no settings for {name!r}; {nearest(name, tuned)}")

    def methods(extra: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"name": m, "settings": {**tuned[m], **extra}} for m in experiment.methods]

    chosen = {"seeds": list(seeds)} if seeds else {}
    return {
        variant: load_config({**experiment.study, **chosen, "methods": methods(extra)})
        for variant, extra in experiment.variants.items()
    }
