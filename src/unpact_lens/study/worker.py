"""Carry out tasks of a study in a process of its own: `python -m unpact_lens.study.worker DIRECTORY`.

The process reads one task a line from stdin, as JSON, and writes one line for each step and each end of a task. Models
are loaded once a process. The configuration and the number of threads are those of `study.json`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from unpact_lens.errors import InputError
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.folder import read_folder
from unpact_lens.study.keys import text_of
from unpact_lens.study.run_study import arithmetic, run_task
from unpact_lens.study.tasks import Task
from unpact_lens.study.workspace import Workspace


@dataclass(frozen=True)
class Ended:
    """Hold how a task ended.

    Attributes:
        failed: Error of a cell, which is recorded in the cell's directory. None if it is finished.
        refused: Message of an `InputError` in a part that all cells share. None if there was none.
        broken: Any other error in such a part. None if there was none.
    """

    failed: str | None = None
    refused: str | None = None
    broken: str | None = None


def work(folder: str, task: Task, step: Callable[[str], None]) -> Ended:
    """Carry out one task of a study.

    Args:
        folder: Directory of the study.
        task: What to do.
        step: Function that is called with the name of each step.
    """
    try:
        opened = read_folder(folder)
        space, config = _space(folder, text_of(opened.config), opened.threads)
        space.step = step
        with arithmetic(space.config):
            return Ended(failed=run_task(space, config, task))
    except InputError as error:
        return Ended(refused=str(error))
    except Exception as error:  # It is reported by the process that started this one.
        return Ended(broken=f"{type(error).__name__}: {' '.join(str(error).split())}")


@lru_cache(maxsize=1)
def _space(folder: str, config: str, threads: int) -> tuple[Workspace, StudyConfig]:
    """Return the shared parts of a study in this process, and its configuration."""
    given = StudyConfig.model_validate(json.loads(config))
    return Workspace(given.model_copy(update={"threads": threads}), Path(folder), print), given


def main(folder: str) -> None:
    """Read tasks from stdin until it is closed, and write how each ended."""
    warnings.filterwarnings("ignore")
    # What libraries print must not get between the lines of the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(kind: str, value: object) -> None:
        answers.write(json.dumps({kind: value}) + "\n")
        answers.flush()

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        task = Task(**json.loads(line))
        say("ended", asdict(work(folder, task, lambda text: say("step", text))))


def _end_with(parent: int) -> None:
    """End this process when the one that started it has died."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
