"""Destruction is compared with a baseline on the same facts, and drawn."""

import math
from dataclasses import dataclass

import pandas as pd
import pytest
import torch

from experiments.forgetting.destruction_figures import destruction_by_share, frontier, spared_bars
from experiments.shared.destruction_over_seeds import destruction_over_seeds
from unpact_lens.errors import InputError
from unpact_lens.evaluation.result import Scores

GROUPS = ("forget", "forget", "near", "near", "far", "far")


def scores(right, groups=GROUPS, parts=()):
    right = torch.as_tensor(right).float()[None]
    known = torch.tensor([[1.0, 1, 1, 1, 1, 0, *[1] * 6][: len(groups)]])
    names = tuple("abcdefghijkl"[: len(groups)])
    return Scores("made", ("fact_span",), names, names, ("place",) * len(names), groups, names, right, (True,), known,
                  parts=parts)  # fmt: skip


@dataclass
class Cell:
    method: str
    scores: Scores


@dataclass
class Study:
    cells: tuple


def cell(method, *right):
    return Cell(method, scores(right))


STUDY = Study(
    (
        cell("ga", 0, 0, 0, 0, 0, 0),
        cell("ga", 0, 1, 0, 1, 0, 0),
        cell("select", 0, 0, 1, 1, 0, 0),
        cell("select", 0, 0, 1, 1, 1, 0),
    )
)


def test_rates_and_spared_facts_by_hand():
    frame = destruction_over_seeds(STUDY, {"select": "ga"}).set_index("method")
    assert frame.loc["ga", ["F", "D_near", "D_far", "D"]].tolist() == [0.75, 0.75, 1.0, 0.875]
    assert frame.loc["select", ["F", "D_near", "D_far", "D"]].tolist() == [1.0, 0.0, 0.5, 0.25]
    assert frame.loc["select", "spared"] == pytest.approx(
        (2.5 - 0.5) / 3
    )  # over the three retain facts that the original model knows
    assert frame.loc["select", "against"] == "ga"
    assert frame["spared"].isna()["ga"]


def test_without_near_facts_destruction_equals_that_of_far_facts():
    groups = ("forget", "forget", "far", "far", "far", "far")
    cells = tuple(Cell("ga", scores(row, groups)) for row in ((0, 0, 0, 0, 0, 0), (0, 1, 0, 1, 0, 0)))
    row = destruction_over_seeds(Study(cells), {}).iloc[0]
    assert math.isnan(row["D_near"])
    assert row["D"] == row["D_far"] == pytest.approx(2.5 / 3)


def test_facts_that_were_trained_on_do_not_count():
    groups, parts = (*GROUPS, *GROUPS[2:]), ("", "", *["unseen"] * 4, *["trained"] * 4)
    rows = {"ga": (0, 0, 0, 0, 0, 0, 1, 1, 1, 1), "select": (0, 0, 1, 1, 0, 0, 0, 0, 0, 0)}
    study = Study(tuple(Cell(name, scores(row, groups, parts)) for name, row in rows.items()))
    frame = destruction_over_seeds(study, {"select": "ga"}).set_index("method")
    assert frame.loc["ga", ["D_near", "D_far"]].tolist() == [1, 1]
    assert frame.loc["select", ["D_near", "D_far"]].tolist() == [0, 1]
    assert frame.loc["select", "spared"] == pytest.approx(2 / 3)


def test_unknown_baseline_is_named_in_the_error():
    with pytest.raises(InputError, match="method 'gd' is not in the study; known are 'ga', 'select'"):
        destruction_over_seeds(STUDY, {"select": "gd"})


def test_figure_shows_spared_facts_with_interval():
    trace = spared_bars(destruction_over_seeds(STUDY, {"select": "ga"})).data[0]
    assert list(trace.y) == ["select against ga"]
    assert trace.x[0] == pytest.approx(2 / 3)
    assert trace.error_x.array[0] >= 0 <= trace.error_x.arrayminus[0]


def test_figure_by_share_ends_both_lines_at_all_tokens_and_marks_low_forgetting():
    study = Study(
        (
            cell("ga, 0.5 by key", 0, 0, 1, 1, 1, 0),
            cell("ga, 0.5 by chance", 1, 0, 0, 1, 1, 0),
            cell("ga, all", 0, 0, 0, 0, 0, 0),
        )
    )
    arms = {"loss": "ga", "share": [0.5, 0.5, 1.0], "pick": ["key", "chance", "key"]}
    fig = destruction_by_share(destruction_over_seeds(study, {}).assign(**arms))
    key, chance = fig.data
    assert list(key.x) == list(chance.x) == [0.5, 1.0]
    assert list(key.y) == [0.0, 1.0]
    assert list(chance.y) == [0.5, 1.0]
    assert list(key.marker.symbol) == ["circle", "circle"]
    assert list(chance.marker.symbol) == ["circle-open", "circle"]
    assert [annotation.text for annotation in fig.layout.annotations] == ["ga"]


def test_frontier_has_one_line_per_method_in_training_order():
    looks = {"method": ["ga", "ga", "npo"], "step": [0, 5, 0], "F": [0.0, 0.9, 0.1], "D_near": [0.0, 0.6, 0.2]}
    ga, npo = frontier(pd.DataFrame(looks)).data
    assert (ga.name, list(ga.x), list(ga.y)) == ("ga", [0.0, 0.9], [0.0, 0.6])
    assert (npo.name, list(npo.customdata[:, 0])) == ("npo", [0])
