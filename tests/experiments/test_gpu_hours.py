"""The page of arithmetic follows from the measured costs and the configurations."""

import json

import pytest

from experiments.paper.gpu_hours import HERE, PAGE, exclusions, hours, table
from experiments.shared.page_tables import read_block
from unpact_lens.study import load_config
from unpact_lens.study.keys import EXCLUDED
from unpact_lens.text_tables import to_markdown


def test_the_page_shows_the_tables_that_the_code_computes():
    assert read_block(PAGE, "gpu-hours") == to_markdown(table().set_index("benchmark"), digits=2).strip()
    assert read_block(PAGE, "exclusions") == to_markdown(exclusions()).strip()
    assert len(exclusions()) == len(EXCLUDED)


def test_the_hours_of_tofu_by_hand():
    costs = json.loads((HERE / "gpu-costs.json").read_text())
    row = hours(load_config(HERE / "tofu-llama2-7b.yaml"), costs)
    assert row["steps"] == 5 * 13
    assert row["cells"] == 36
    answer = 2.304 / 64 * 100 / 32
    assert row["probes"] == pytest.approx(20 * 400 * answer / 3600, abs=0.005)
    assert row["checks"] == pytest.approx(13 * 400 * answer / 3600, abs=0.005)
    assert 0.06 < row["training"] < 65 * 2 * 3.711 / 3600


def test_costs_scale_with_the_measured_seconds():
    costs = json.loads((HERE / "gpu-costs.json").read_text())
    double = {k: v * 2 if isinstance(v, float) else v for k, v in costs.items()}
    config = load_config(HERE / "muse-news-llama2-7b.yaml")
    assert hours(config, double)["all cells"] == pytest.approx(2 * hours(config, costs)["all cells"], rel=0.02)
