"""What the experiments' pages say is what their committed results say."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from unpact_lens.evaluation import to_markdown
from unpact_lens.report import read_block
from unpact_lens.study import Experiment, load_config, load_experiment, wide
from unpact_lens.unlearning import METHODS

ROOT = Path(__file__).parents[1] / "experiments"
RESULTS = sorted(ROOT.glob("*/results*.csv"))
CONFIGS = sorted(ROOT.glob("*/config*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_configuration_is_one_that_can_be_run(path):
    experiment = Experiment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert len(experiment.study["seeds"]) >= 3
    for name in experiment.methods:
        assert name in METHODS
    load_config({**experiment.study, "methods": [{"name": m} for m in experiment.methods]})


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_tables_are_those_of_the_results(path):
    name, results, page = path.stem.removeprefix("results"), pd.read_csv(path), path.parent / "README.md"
    if "probe" in results:
        shown, table = read_block(page, f"excess{name}"), wide(results, "excess")
    else:
        shown, table = read_block(page, f"spared{name}"), results
    assert shown == to_markdown(table.set_index("method")).strip()
    assert load_experiment(path.parent / f"config{name}.yaml")
    assert (path.parent / f"figure{name}.html").is_file()


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/depth.csv")), ids=str)
def test_depth_tables_are_means_over_seeds_of_the_results(path):
    rows = pd.read_csv(path, keep_default_na=False)
    means = rows.groupby(["variant", "method"], sort=False).mean(numeric_only=True).drop(columns="seed").reset_index()
    assert read_block(path.parent / "README.md", "depth") == to_markdown(means.set_index("method")).strip()


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/tokens.csv")), ids=str)
def test_token_tables_are_those_of_the_results(path):
    table = to_markdown(pd.read_csv(path).set_index("class")).strip()
    assert read_block(path.parent / "README.md", "tokens") == table
