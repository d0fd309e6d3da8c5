"""The SLURM script runs a study in one directory: its jobs share the parts, and the last one completes the study."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import unpact_lens as ul
from tests.study.small_study import small_config

SCRIPT = Path(__file__).parents[2] / "experiments" / "paper" / "array.sh"


@pytest.mark.slow
def test_two_jobs_at_once_share_the_parts_and_complete_the_study(tmp_path):
    bash = shutil.which("bash")
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(small_config(tmp_path)))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    jobs = []
    for task in (4, 5):  # An array need not begin at 0.
        slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "2"}
        command = [bash, str(SCRIPT), str(config), str(tmp_path / "out")]
        environment = {**os.environ, **slurm, "PATH": path}
        jobs.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    said = [job.communicate(timeout=500)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    study = ul.load(tmp_path / "out")
    assert [c.method for c in study.cells] == ["ga", "npo"]
    assert [sum(f"{m}: unlearning" in text for text in said) for m in ("ga", "npo")] == [1, 1]


def test_without_slurm_the_script_says_so(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(["bash", str(SCRIPT), "a", "b"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "run me by sbatch" in done.stderr
