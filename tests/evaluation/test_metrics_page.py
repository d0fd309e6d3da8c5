"""The page on metrics and the how-to agree with the code."""

import math
import re
from pathlib import Path

import pytest

from unpact_lens import evaluation
from unpact_lens.data.benchmark import BENCHMARKS
from unpact_lens.evaluation import METRICS, PUBLISHED, metrics
from unpact_lens.text_tables import to_markdown

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
HOW_TO = (DOCS / "how-to" / "benchmarks.md").read_text(encoding="utf-8")


def test_the_page_contains_the_table_of_metrics():
    assert to_markdown(metrics()) in PAGE


@pytest.mark.parametrize("name", METRICS)
def test_every_docstring_gives_range_direction_and_source(name):
    metric = METRICS[name]
    low, high = ({math.inf: "infinity", -math.inf: "minus infinity"}.get(b, f"{b:g}") for b in metric.bounds)
    assert f"Range: {low} to {high}; {metric.better} is better. Source: {metric.source}." in metric.compute.__doc__


@pytest.mark.parametrize("name", ["semantic_similarity", "entailment", "judge_answers", "verdict"])
def test_functions_that_the_page_names_exist(name):
    assert f"`{name}`" in PAGE
    assert callable(getattr(evaluation, name))


def test_the_how_to_names_every_benchmark_and_published_table():
    listed = set(re.findall(r"`([\w-]+)`", HOW_TO))
    for name in BENCHMARKS:
        assert name in listed or re.sub(r"^tofu", "", name) in listed, name
    assert set(PUBLISHED) <= listed
