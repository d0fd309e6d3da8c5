"""A study on a local Ray cluster of several nodes equals a serial one, also when nodes are killed in mid-cell."""

import threading
import time

import pytest

from tests.study.small_study import small_config
from tests.study.test_run_study import without_times
from unpact_lens.errors import InputError
from unpact_lens.study import load_config, run_study
from unpact_lens.study.claims import held
from unpact_lens.study.folder import StudyFolder
from unpact_lens.study.on_ray import declare


def opened(tmp_path):
    return StudyFolder(tmp_path, {}, 1)


NODES = [{"Alive": True, "Resources": {"CPU": 4.0, "memory": 8e9}}, {"Alive": False, "Resources": {"CPU": 64.0}}]


def test_a_cell_declares_its_cpus_gpus_and_memory(tmp_path):
    asked = {"resources": {"cpus": 3, "gpus": 0, "memory_gb": 2}}
    declared = declare(load_config(small_config(tmp_path, **asked)), opened(tmp_path), NODES)
    assert declared == {"num_cpus": 3, "num_gpus": 0, "memory": 2_000_000_000, "max_retries": 3}


def test_a_gpu_is_declared_where_the_cluster_has_one(tmp_path):
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0, "memory": 8e9}}]
    assert declare(load_config(small_config(tmp_path)), opened(tmp_path), nodes)["num_gpus"] == 1
    assert (
        declare(load_config(small_config(tmp_path, load={"device": "cpu"})), opened(tmp_path), nodes)["num_gpus"] == 0
    )


def test_a_cell_that_no_living_node_can_run_is_refused(tmp_path):
    config = load_config(small_config(tmp_path, resources={"cpus": 8}))
    with pytest.raises(InputError, match=r"a cell needs 8 CPUs, 0 GPUs.* no node .* \(the most: 4 CPUs"):
        declare(config, opened(tmp_path), NODES)


def test_without_a_cluster_the_message_says_how_to_start_one(tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda **options: (_ for _ in ()).throw(ConnectionError("nobody listens")))
    with pytest.raises(InputError, match=r"no Ray cluster can be reached \(nobody listens\); run `ray start --head`"):
        run_study(load_config(small_config(tmp_path)), tmp_path / "out", on="ray", progress=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nodes_that_are_killed_in_mid_cell_change_no_bit(tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    steps = {"lr": 1e-5, "batch_size": 8, "check_every": 2, "steps": 60}
    methods = [{"name": name, "settings": steps} for name in ("ga", "npo", "ga_gdr")]
    config = load_config(small_config(tmp_path, methods=methods, resources={"cpus": 1, "memory_gb": 0.1}))
    serial = run_study(config, tmp_path / "serial", progress=False)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "memory": 10**9})
    nodes = [cluster.add_node(num_cpus=1, memory=10**9) for _ in range(2)]
    out, killed = tmp_path / "ray", []

    def kill_workers():
        """Kill both worker nodes once a cell has a checkpoint: of three nodes with a cell each, the head is left."""
        while not killed:
            if any(out.glob("checkpoints/*/state.json")):
                for node in nodes:
                    cluster.remove_node(node, allow_graceful=False)
                killed.extend(nodes)
            time.sleep(0.05)

    try:
        ray.init(address=cluster.address, log_to_driver=False)
        killer = threading.Thread(target=kill_workers, daemon=True)
        killer.start()
        study = run_study(config, out, on="ray", progress=False)
        killer.join(5)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert len(killed) == 2
    assert without_times(study) == without_times(serial)
    assert not list(out.glob("checkpoints/*"))
    assert not held(out / ".claims", "cells/ga-seed0")
