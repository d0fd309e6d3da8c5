"""Run the cells of a study in several processes of this machine.

The shared parts come first, in one process. Then each process takes the next cell. A process that dies in mid-cell
(killed, out of memory) is replaced, and its cell goes on from its checkpoint in another process, `TRIES` times.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from unpact_lens.errors import InputError
from unpact_lens.study.folder import StudyFolder
from unpact_lens.study.tasks import ASSEMBLE, SHARED_PARTS, Task
from unpact_lens.study.worker import Ended

TRIES = 3
"""Number of processes that may die in one task before it counts as failed."""


class Died(Exception):
    """Signal that a process died in the middle of a task."""


def run_in_processes(opened: StudyFolder, tasks: Sequence[Task], jobs: int, step: Callable[[str], None]) -> None:
    """Run the tasks of a study, then write its report.

    Args:
        opened: Directory of the study.
        tasks: Cells to run.
        jobs: Number of processes.
        step: Function that is called with the name of each step.

    Raises:
        InputError: If a part that all cells share cannot be made, or no cell can be finished.
    """
    pool = [Process(opened, number, step) for number in range(min(jobs, max(1, len(tasks))))]
    try:
        _carried_out(pool[0], SHARED_PARTS, step)
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        stopped: list[BaseException] = []
        threads = [threading.Thread(target=_take, args=(p, waiting, stopped, step), daemon=True) for p in pool]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # A join without a limit could not be interrupted.
        if stopped:
            raise stopped[0]
        _carried_out(pool[0], ASSEMBLE, step)
    finally:
        for process in pool:
            process.end()


def _take(
    process: Process, waiting: queue.SimpleQueue[Task], stopped: list[BaseException], step: Callable[[str], None]
) -> None:
    """Carry out tasks until none is left."""
    try:
        while not stopped:
            _carried_out(process, waiting.get_nowait(), step)
    except queue.Empty:
        return
    except BaseException as error:  # It is raised again in the main thread.
        stopped.append(error)


def _carried_out(process: Process, task: Task, step: Callable[[str], None]) -> None:
    """Carry out one task, in a new process where the process dies.

    Raises:
        InputError: If it was refused, or is a part that cannot be made.
    """
    for number in range(1, TRIES + 1):
        try:
            ended = process.carry_out(task)
        except Died as death:
            step(f"{task}: {death} (try {number} of {TRIES})")
            if number == TRIES:
                _give_up(process, task, f"{death} {TRIES} times")
            continue
        if ended.refused is not None:
            raise InputError(ended.refused)
        if ended.broken is not None:
            raise RuntimeError(f"{task}: {ended.broken}")
        return


def _give_up(process: Process, task: Task, why: str) -> None:
    """Record that a cell cannot be finished; raise an error for a shared part."""
    if task.do != "cell":
        raise InputError(f"{task} cannot be made: {why}; a smaller batch_tokens or fewer jobs need less memory")
    recorded = process.carry_out(Task("fail", task.method, task.seed, reason=why))
    if recorded.refused or recorded.broken:
        raise InputError(str(recorded.refused or recorded.broken))


class Process:
    """Hold one process that carries out tasks; it is started when it is first needed.

    Args:
        opened: Directory of the study.
        number: Number of the process, which selects its GPU.
        step: Function that is called with the name of each step.
    """

    def __init__(self, opened: StudyFolder, number: int, step: Callable[[str], None]) -> None:
        self.opened, self.number, self.step = opened, number, step
        self.process: subprocess.Popen[str] | None = None

    def carry_out(self, task: Task) -> Ended:
        """Carry out a task, and return how it ended.

        Raises:
            Died: If the process died.
        """
        if self.process is None:
            self.process = self._start()
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(task)) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                said = json.loads(line)
                if "ended" in said:
                    return Ended(**said["ended"])
                self.step(said["step"])
        except (BrokenPipeError, ValueError):
            pass
        self.process = None
        code = process.wait()
        signal = f"signal {-code}" if code < 0 else f"status {code}"
        raise Died(f"its process died ({signal}{', out of memory?' if code == -9 else ''})")

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.opened.threads)}
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus > 1:
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = seen if len(seen) == gpus else [str(i) for i in range(gpus)]
            environment["CUDA_VISIBLE_DEVICES"] = names[self.number % gpus]
        return subprocess.Popen(
            [sys.executable, "-m", "unpact_lens.study.worker", str(self.opened.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent, which ends its processes.
        )

    def end(self) -> None:
        """End the process: at once if it is in the middle of a task."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
