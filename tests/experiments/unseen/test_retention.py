"""The tables of the experiment equal hand-made counts."""

import pytest
import torch

from experiments.unseen.curve_figure import curve_figure
from experiments.unseen.retention import retention_curve, same_number
from experiments.unseen.units import CURVE, HALVES, Unit
from unpact_lens.evaluation import Scores


def scores(parts, lost):
    """Score two forget facts (one lost), and facts `near-k` and `far-k` of subject k: `parts` and `lost` by k."""
    ids = ["f0", "f1", *(f"{g}-{k}" for g in ("near", "far") for k in parts)]
    groups = ["forget", "forget", *(g for g in ("near", "far") for _ in parts)]
    right = [0, 1, *(float(k not in lost[g]) for g in ("near", "far") for k in parts)]
    return Scores(
        benchmark="made", metrics=("fact_span",), ids=tuple(ids),
        subjects=("f", "g", *map(str, parts), *map(str, parts)),
        kinds=("place",) * len(ids), groups=tuple(groups), generated=("",) * len(ids), values=torch.tensor([right]),
        binary=(True,), values_before=torch.ones(1, len(ids)), settings={"retain_split": 1},
        parts=("", "", *parts.values(), *parts.values()),
    )  # fmt: skip


def halves(lost):
    """Two splits of subjects 0 to 7; in each, one half and then the other is trained on."""
    found = {}
    for split, first in enumerate(({0, 1, 2, 3}, {0, 2, 4, 6})):
        for half in (0, 1):
            parts = {k: "trained" if (k in first) == (half == 0) else "unseen" for k in range(8)}
            gone = {g: {k for k in range(8) if parts[k] == "unseen" and k in ks} for g, ks in lost.items()}
            found[Unit(HALVES, "ga", 4, split, half)] = scores(parts, gone)
    return found


def test_each_fact_is_compared_with_itself_when_its_subject_was_trained_on():
    frame = same_number(halves({"near": set(range(6)), "far": {0}})).set_index("group")
    assert frame["seen"].tolist() == [0, 0, 0]
    assert frame.loc["near", ["unseen", "difference", "n", "splits"]].tolist() == [0.75, 0.75, 8, 2]
    assert frame.loc["far", "unseen"] == 0.125
    assert frame.loc["near and far", "difference"] == pytest.approx(0.4375)
    assert frame["F"].tolist() == [0.5] * 3
    for _, row in frame.iterrows():
        assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert frame.loc["near", "difference_low"] > 0


def test_no_difference_has_an_interval_around_zero():
    frame = same_number(halves({"near": set(), "far": set()}))
    assert frame["difference"].tolist() == [0, 0, 0]
    assert (frame["difference_low"] < 0).all()
    assert (frame["difference_high"] > 0).all()


def test_the_curve_counts_each_seed_with_its_own_unseen_subjects():
    found = {}
    for seed, unseen in enumerate(({4, 5, 6, 7}, {0, 1, 2, 3})):
        for n in (2, 4):
            others = sorted(set(range(8)) - unseen)[:n]
            parts = {k: "unseen" if k in unseen else "trained" for k in (*others, *unseen)}
            lost = {"near": set(list(unseen)[: 4 - n // 2]), "far": set()}
            found[Unit(CURVE, "ga", n, seed)] = scores(parts, lost)
    frame = retention_curve(found).set_index("subjects")
    assert frame["D_near"].tolist() == [0.75, 0.5]
    assert frame["D_far"].tolist() == frame["D_trained"].tolist() == [0, 0]
    assert frame["D"].tolist() == frame["memorised_retention"].tolist() == [0.375, 0.25]
    assert frame["F"].tolist() == [0.5, 0.5]
    assert frame["seeds"].tolist() == [2, 2]
    fig = curve_figure(retention_curve(found))
    assert [t.name for t in fig.data] == ["ga, unseen facts"] * 2 + ["ga, trained facts"] * 2
    assert list(fig.data[0].x) == [2, 4]
    assert list(fig.data[0].y) == [0.75, 0.5]
    assert fig.data[0].error_y.array[0] == pytest.approx(frame["D_near_high"].iloc[0] - 0.75)
