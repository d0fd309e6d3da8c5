"""Load the configuration of an experiment: one question, its methods, and one study per variant of training.

The file is committed before the run. It names the methods. Their hyperparameters are in another file, which the common
search wrote.
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
    """Hold what an experiment runs.

    Attributes:
        question: Question that the experiment answers.
        methods: Names of the unlearning methods.
        settings: Path of the hyperparameter file, relative to the experiment's own. Each method's entry `search`
            describes the search and is not passed on.
        variants: Hyperparameters that all methods share in each variant.
        study: All other entries of a `StudyConfig`.
    """

    question: str
    methods: tuple[str, ...] = Field(min_length=1)
    settings: str
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    study: dict[str, Any]


def tuned_settings(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Read the hyperparameters that a search found for each method, without the description of the search.

    Args:
        path: YAML file.

    Raises:
        InputError: If it is missing or not YAML.
    """
    found = read_yaml(str(path))
    return {name: {k: v for k, v in settings.items() if k != "search"} for name, settings in found.items()}


def load_experiment(path: str | os.PathLike[str], seeds: Sequence[int] = ()) -> dict[str, StudyConfig]:
    """Load the studies of an experiment, one per variant.

    Args:
        path: YAML file of the experiment.
        seeds: Seeds to run; if empty, those of the file.

    Raises:
        InputError: If a file is missing or not YAML, an entry is unknown or wrong, or a method has no
            hyperparameters.
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
