"""Measure general ability by lm-evaluation-harness, on the Hugging Face export of a model.

The harness is the extra `[harness]`. Its own tasks read data sets from a hub. A task file with local data needs none.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.export import export_hf
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class HarnessScores(Result):
    """Hold the results of lm-evaluation-harness.

    Attributes:
        rows: Task, metric and filter of each number.
        values: The numbers.
        stderr: Standard error of each number; NaN if the harness gives none.
        direction: Better direction of each number: `"higher"`, `"lower"`, or `""` if the task does not say.
        settings: Version of the harness, number of shots, limit.
    """

    rows: tuple[tuple[str, str, str], ...]
    values: tuple[float, ...]
    stderr: tuple[float, ...]
    direction: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def _brief(self) -> str:
        return joined(
            [f"{task} {metric} {value:.3f}" for (task, metric, _), value in zip(self.rows, self.values, strict=True)]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each task and metric."""
        frame = pd.DataFrame(self.rows, columns=["task", "metric", "filter"])
        return frame.assign(value=self.values, stderr=self.stderr, better=self.direction)

    def value(self, task: str, metric: str) -> float:
        """Return one number.

        Raises:
            InputError: If the task was not run or has no such metric.
        """
        for (t, m, _), value in zip(self.rows, self.values, strict=True):
            if (t, m) == (task, metric):
                return value
        known = [f"{t}: {m}" for t, m, _ in self.rows]
        raise InputError(f"no number for task {task!r} and metric {metric!r}; {nearest(f'{task}: {metric}', known)}")


def run_harness(
    model: HookedModel,
    tasks: Sequence[str],
    *,
    task_path: str | os.PathLike[str] | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> HarnessScores:
    """Run tasks of lm-evaluation-harness on a hooked model, through its Hugging Face export.

    Args:
        model: Hooked model with a tokenizer.
        tasks: Names of tasks, of the harness or in `task_path`.
        task_path: Directory with the user's own task files (YAML).
        num_fewshot: Number of solved examples before each question; if None, the task decides.
        limit: Largest number of documents of each task; if None, all are used.
        batch_size: Number of documents in one forward pass.

    Returns:
        All numbers that the tasks report.

    Raises:
        InputError: If the extra is not installed, a task is unknown, or `task_path` is not a directory.

    Source: Gao et al., github.com/EleutherAI/lm-evaluation-harness.
    """
    try:
        lm_eval = importlib.import_module("lm_eval")
        task_manager = importlib.import_module("lm_eval.tasks").TaskManager
    except ImportError:
        raise InputError("lm-evaluation-harness is not installed; pip install 'unpact-lens[harness]'") from None
    if isinstance(tasks, str) or not tasks:
        raise InputError(f"tasks={tasks!r}; give a list of task names, e.g. ['arc_easy']")
    if task_path is not None and not Path(task_path).is_dir():
        raise InputError(f"task_path={str(task_path)!r} is not a directory; give one that holds task files (YAML)")
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer, so it cannot read the tasks' text; load it with a tokenizer")
    manager = task_manager(include_path=None if task_path is None else str(task_path))
    for task in tasks:
        if task not in manager.all_tasks:
            raise InputError(f"unknown task {task!r}; {nearest(task, manager.all_tasks)}")
    with tempfile.TemporaryDirectory() as folder:
        directory = export_hf(model, Path(folder) / "model")
        output = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(directory), "dtype": str(model.cfg.dtype).removeprefix("torch.")},
            tasks=list(tasks),
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            device=str(hooked.device_of(model)),
            task_manager=manager,
            log_samples=False,
            bootstrap_iters=0,
        )
    settings = {"lm_eval": lm_eval.__version__, "num_fewshot": num_fewshot, "limit": limit}
    return _scores(output, settings)


def _scores(output: dict[str, Any], settings: dict[str, Any]) -> HarnessScores:
    """Convert the harness's results, whose keys have the form `"metric,filter"`."""
    rows, values, errors, direction = [], [], [], []
    for task, numbers in output["results"].items():
        for key, value in numbers.items():
            if "," not in key or key.split(",")[0].endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            metric, name = key.split(",", 1)
            error = numbers.get(f"{metric}_stderr,{name}")
            better = output.get("higher_is_better", {}).get(task, {}).get(metric)
            rows.append((task, metric, name))
            values.append(float(value))
            errors.append(float(error) if isinstance(error, (int, float)) else float("nan"))
            direction.append({True: "higher", False: "lower"}.get(better, ""))
    return HarnessScores(tuple(rows), tuple(values), tuple(errors), tuple(direction), settings)
