"""The parts of an experiment depend on its facts, its options and its own source."""

import re
from pathlib import Path

from experiments.shared import experiment_key as module
from experiments.shared.experiment_key import EXPERIMENTS, SCRIPTS, experiment_key
from tests.study.small_study import small_config
from unpact_lens.study import load_config
from unpact_lens.study.workspace import Workspace


def test_a_key_changes_with_each_fact_the_configuration_and_the_source(tmp_path, monkeypatch):
    config = load_config(small_config(tmp_path))
    spaces = [Workspace(c, tmp_path, print) for c in (config, config.model_copy(update={"diff_examples": 2}))]
    first = experiment_key(spaces[0], "choice", facts=["a"], seed=0)
    keys = [
        experiment_key(spaces[0], "choice", facts=["b"], seed=0),
        experiment_key(spaces[0], "choice", facts=["a"], seed=1),
        experiment_key(spaces[0], "focus", facts=["a"], seed=0),
        experiment_key(spaces[1], "choice", facts=["a"], seed=0),
    ]
    monkeypatch.setattr(module, "source_hash", lambda *a: "other")
    keys.append(experiment_key(spaces[0], "choice", facts=["a"], seed=0))
    assert all(key != first for key in keys)


def test_every_part_of_every_experiment_has_such_a_key():
    parts = 0
    for path in sorted(EXPERIMENTS.rglob("*.py")):
        text = path.read_text()
        kept = len(re.findall(r"(?<!self)\.kept\(", text))
        parts += kept
        assert not kept or "experiment_key(" in text, path
        assert "space.key(" not in text or path.name == "experiment_key.py", path
    assert parts >= 4


def test_the_facts_are_in_the_keys_of_sensitivity_and_focus():
    for name in ("focus/focus_study.py", "sensitivity/sensitivity_study.py"):
        assert "facts=[asdict(q) for q in" in (EXPERIMENTS / name).read_text()


def test_scripts_that_are_left_out_of_the_source_compute_no_part_of_a_study():
    for name in SCRIPTS:
        assert Path(name).name == "run.py"
