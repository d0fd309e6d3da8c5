"""Destruction is that of unseen facts: a model that keeps only what it rehearses is not harmless."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import NAMES, _trained, benchmark, split_benchmark, trained
from unpact_lens.errors import InputError
from unpact_lens.evaluation import evaluate, known_facts
from unpact_lens.evaluation.memorised_retention import memorised_retention
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import verdict
from unpact_lens.results import load, save
from unpact_lens.stats.estimate import MeanRate, Rate


def scores(lost: dict[tuple[str, str], int], n: int = 20, *, split: bool = True) -> Scores:
    """Invent answers to `n` facts of each group and part, each about its own subject; the first `lost` are wrong."""
    cells = [("forget", ""), *((g, p) for g in ("near", "far") for p in ("trained", "unseen")), ("general", "")]
    right = torch.tensor([float(i >= lost.get(cell, 0)) for cell in cells for i in range(n)])
    groups, parts = zip(*(cell for cell in cells for _ in range(n)), strict=True)
    return Scores(
        benchmark="invented", metrics=("fact_span",), ids=tuple(map(str, range(len(groups)))),
        subjects=tuple(map(str, range(len(groups)))), kinds=("place",) * len(groups), groups=groups,
        generated=("",) * len(groups), values=right[None], binary=(True,), values_before=torch.ones(1, len(groups)),
        settings={"retain_split": (0.5, 0.0, 0.5)} if split else {}, parts=parts if split else (),
    )  # fmt: skip


def test_destruction_is_counted_on_unseen_facts_and_not_on_rehearsed_ones():
    found = scores({("near", "unseen"): 14, ("far", "unseen"): 4, ("near", "trained"): 2})
    assert (found.destruction_near, found.destruction_far) == (Rate(14, 20), Rate(4, 20))
    assert found.destruction == MeanRate((Rate(14, 20), Rate(4, 20)))
    assert found.destruction_trained == MeanRate((Rate(2, 20), Rate(0, 20)))
    assert found.memorised_retention.value == pytest.approx((14 / 20 + 4 / 20) / 2 - 2 / 40)
    assert found.memorised_retention.low > 0
    assert found.rate("fact_span", "near").value == 6 / 20
    assert found.mean("fact_span", "near") == pytest.approx(6 / 20)
    assert found.mean("fact_span", "retain") == pytest.approx(22 / 40)
    assert int(found.among("near", part="trained").sum()) == int(found.among("near").sum()) == 20
    assert int(found.among().sum()) == 120


def test_the_table_shows_destruction_of_both_parts():
    frame = scores({("near", "unseen"): 14, ("near", "trained"): 2}).to_frame().set_index(["metric", "group"])["value"]
    assert frame["destruction", "near"] == 0.7
    assert frame["destruction", "near and far"] == 0.35
    assert frame["destruction_trained", "near"] == 0.1
    assert frame["destruction_trained", "far"] == 0
    assert frame["memorised_retention", "near and far"] == pytest.approx(0.3)
    assert frame["fact_span", "near"] == pytest.approx(0.3)


def test_a_rehearsing_model_is_judged_by_what_it_never_rehearsed():
    """All that the retain term trained on is kept, and seven of ten other facts are gone."""
    found = scores({("forget", ""): 20, ("near", "unseen"): 14, ("far", "unseen"): 14})
    judged = verdict(found.forgetting, found.destruction, {"p": Rate(0, 20)})
    assert "destroyed" in judged.labels
    assert judged.distance == pytest.approx(0.7)
    assert found.destruction_trained.value == 0


def test_a_real_model_that_memorises_only_trained_facts_destroys():
    bench = split_benchmark()
    kept = (*NAMES[:4], *bench.retain.subjects)
    found = evaluate(_trained(kept, 0), bench, before=trained())
    assert found.destruction_trained.value == 0
    assert found.destruction.value >= 0.5
    assert found.settings["retain_split"] == bench.retain_split
    assert found.ids == tuple(q.id for q in (*bench.forget, *bench.retain, *bench.unseen))


def test_validation_facts_are_not_asked():
    bench = benchmark().split((0.5, 0.25, 0.25))
    found = evaluate(trained(), bench)
    assert not {q.id for q in bench.validation} & set(found.ids)


def test_without_unseen_facts_destruction_is_undefined_and_a_warning_says_so():
    with pytest.warns(
        UserWarning, match="benchmark 'village' has no unseen retain facts, so destruction D is undefined"
    ):
        found = evaluate(trained(), benchmark(), before=trained())
    assert found.destruction.n == 0
    assert math.isnan(found.destruction.value)
    assert math.isnan(found.memorised_retention.value)
    assert [(rate.count, rate.n) for rate in found.destruction_trained.parts] == [(0, 8), (0, 8)]
    assert found.mean("fact_span", "near") == 1
    assert verdict(Rate(100, 100), found.destruction, {"p": Rate(0, 100)}).labels == ("undecided",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(trained(), replace(benchmark(), retain=()), before=trained())


def test_scores_without_parts_are_of_version_0_1(tmp_path):
    """They were saved before the split: destruction is what they said it was."""
    old = scores({("near", "trained"): 2, ("near", "unseen"): 14}, split=False)
    assert old.destruction_near == Rate(16, 40)
    assert old.destruction_trained.n == 0
    assert "destruction_trained" not in set(old.to_frame()["metric"])
    new = scores({("near", "unseen"): 1})
    save(new, tmp_path / "s")
    assert load(tmp_path / "s") == new


def test_known_facts_keeps_the_split():
    bench = benchmark().split((0.5, 0.25, 0.25))
    known = known_facts(_trained(NAMES[:6], 0), bench)
    for part in ("retain", "validation", "unseen"):
        assert set(getattr(known, part).subjects) <= set(getattr(bench, part).subjects)
    assert set(NAMES[4:6]) <= {q.subject for q in known.kept} < set(NAMES[4:])
    assert known.retain_split == bench.retain_split


@pytest.mark.parametrize(
    ("unseen", "trained_on", "ends"),
    [  # Newcombe 1998, Table II: 56/70 - 48/80, 9/10 - 3/10, 10/10 - 0/20
        (Rate(56, 70), Rate(48, 80), (0.0524, 0.3339)),
        (Rate(9, 10), Rate(3, 10), (0.1705, 0.8090)),
        (Rate(10, 10), Rate(0, 20), (0.6791, 1.0000)),
    ],
)
def test_the_interval_of_memorised_retention_is_the_published_one(unseen, trained_on, ends):
    found = memorised_retention(unseen, trained_on)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)
    assert memorised_retention(Rate(0, 0), trained_on).n == 0
    nothing = memorised_retention(Rate(0, 20), Rate(0, 20))
    assert nothing.low < 0 < nothing.high


def test_bad_groups_and_parts_offer_the_nearest():
    found = scores({})
    with pytest.raises(InputError, match="unknown group 'nearr'; did you mean 'near'"):
        found.among("nearr")
    with pytest.raises(InputError, match="unknown part 'validation' of the retain facts; known are"):
        found.among("near", part="validation")
