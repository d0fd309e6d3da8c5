"""Run the cells of a study as tasks of a Ray cluster that is running already.

Each task declares its CPUs, GPUs and memory. Ray starts a task again, on another node, if its node or worker dies. The
cell then goes on from its checkpoint. All nodes must see the directory of the study under the same path. The process
that starts the tasks loads no model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from unpact_lens.errors import InputError
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.costs import memory_estimate
from unpact_lens.study.folder import MARK, StudyFolder
from unpact_lens.study.tasks import ASSEMBLE, SHARED_PARTS, Task
from unpact_lens.study.worker import Ended, work

RETRIES = 3
"""Number of times that Ray starts a task again whose worker or node died."""


class Declared(TypedDict, total=False):
    """Hold what a Ray task declares."""

    num_cpus: float
    num_gpus: float
    memory: int
    max_retries: int


def run_on_ray(opened: StudyFolder, config: StudyConfig, tasks: Sequence[Task], step: Callable[[str], None]) -> None:
    """Run the tasks of a study on a Ray cluster, then write its report.

    Args:
        opened: Directory of the study.
        config: Configuration of the study; its `resources` are declared for each cell.
        tasks: Cells to run.
        step: Function that is called with the name of each step.

    Raises:
        InputError: If Ray is not installed, there is no cluster, no node has the resources, a node does not see the
            directory, or a part that all cells share cannot be made.
    """
    try:
        import ray
    except ImportError:
        raise InputError('on="ray" needs Ray; pip install "unpact-lens[cluster]"') from None
    if not ray.is_initialized():
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster can be reached ({' '.join(str(error).split())[:200]}); run `ray start --head`, or set "
                "RAY_ADDRESS"
            ) from None
    folder = str(Path(opened.folder).resolve())
    declared = declare(config, opened, [dict(node) for node in ray.nodes()])
    remote = ray.remote(carried_out).options(**declared)

    def carry_out(parts: Sequence[Task]) -> None:
        running = {remote.remote(folder, task): task for task in parts}
        try:
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(done)
                ended = _result(ray, done, task)
                if ended.broken is not None and task.do == "cell":
                    failed = Task("fail", task.method, task.seed, reason=ended.broken)
                    running[remote.remote(folder, failed)] = failed
                _report(ended, task, step)
        finally:
            for left in running:
                ray.cancel(left, force=True)

    carry_out([SHARED_PARTS])
    carry_out(tasks)
    carry_out([ASSEMBLE])


def carried_out(folder: str, task: Task) -> Ended:
    """Carry out a task on a node of the cluster.

    Args:
        folder: Directory of the study.
        task: What to do.
    """
    if not (Path(folder) / MARK).is_file():
        import socket

        text = f"node {socket.gethostname()} does not see {folder}; give a directory that all nodes share"
        return Ended(refused=text)
    return work(folder, task, lambda text: None)


def declare(config: StudyConfig, opened: StudyFolder, nodes: Sequence[dict[str, object]]) -> Declared:
    """Return what each task declares.

    Args:
        config: Configuration of the study.
        opened: Directory of the study.
        nodes: Nodes of the cluster, as `ray.nodes()` returns them.

    Raises:
        InputError: If no living node has that much. Ray itself would wait without end.
    """
    asked = config.resources
    alive = [node["Resources"] for node in nodes if node.get("Alive")]
    totals = [dict(found) for found in alive if isinstance(found, dict)]
    on_gpu = (config.load.device or "").startswith("cuda") or (
        config.load.device is None and any(total.get("GPU", 0) for total in totals)
    )
    memory = asked.memory_gb * 1e9 if asked.memory_gb else memory_estimate(config, opened.folder)
    declared: Declared = {
        "num_cpus": asked.cpus or opened.threads,
        "num_gpus": asked.gpus if asked.gpus is not None else float(on_gpu),
        "max_retries": RETRIES,
    }
    if memory:
        declared["memory"] = int(memory)
    wanted = {"CPU": declared["num_cpus"], "GPU": declared["num_gpus"], "memory": declared.get("memory", 0)}
    if not any(all(total.get(name, 0) >= n for name, n in wanted.items()) for total in totals):
        largest = {name: max((total.get(name, 0) for total in totals), default=0) for name in wanted}
        raise InputError(
            f"a cell needs {_told(wanted)}, and no node of the Ray cluster has that (the most: {_told(largest)}); set "
            "resources: {cpus, gpus, memory_gb} in the configuration"
        )
    return declared


def _told(found: dict[str, float]) -> str:
    return f"{found['CPU']:g} CPUs, {found['GPU']:g} GPUs and {found['memory'] / 1e9:.1f} GB"


def _result(ray: object, done: object, task: Task) -> Ended:
    """Return how a task ended; a worker that died too often counts as a refusal of its cell."""
    try:
        found: Ended = ray.get(done)  # type: ignore[attr-defined]
    except Exception as error:  # Ray's own errors: worker or node died, memory ran out.
        return Ended(broken=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return found


def _report(ended: Ended, task: Task, step: Callable[[str], None]) -> None:
    """Report the end of a task.

    Raises:
        InputError: If it was refused.
        RuntimeError: If a part that all cells share broke.
    """
    if ended.refused is not None:
        raise InputError(ended.refused)
    if ended.broken is not None and task.do != "cell":
        raise RuntimeError(f"{task}: {ended.broken}")
    step(f"{task}: {ended.failed or ended.broken or 'finished'}")
