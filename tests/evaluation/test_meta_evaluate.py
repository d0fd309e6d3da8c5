"""Faithfulness, robustness and their intervals equal computations by hand, and shuffled labels give one half."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

import unpact_lens as ul
from unpact_lens.errors import InputError
from unpact_lens.evaluation.meta_evaluate import (
    meta_evaluate,
    relearning_stability,
    rounding_stability,
    verdict_score,
)
from unpact_lens.evaluation.verdict import verdict
from unpact_lens.stats.estimate import MeanRate, Rate
from unpact_lens.stats.paired import Outcomes, simultaneous_differences

UNIT = st.floats(0, 1)
SIGNED = st.floats(-1, 1) | st.just(0.0)


def pool(models: int = 60, clusters: int = 5, effect: float = 1.0, spread: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Models of which half know; `score` is normal, shifted by `effect` if they do and by their cluster."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(models) % clusters
    knows = np.arange(models) // clusters % 2 == 0
    of_cluster = rng.normal(size=clusters)
    return pd.DataFrame(
        {
            "model": [f"m{i}" for i in range(models)],
            "truth": np.where(knows, "hides", "never knew"),
            "cluster": cluster,
            "score": effect * knows * (1 + spread * of_cluster[cluster]) + rng.normal(size=models),
            "noise": rng.normal(size=models),
        }
    )


def row(found, score):
    return found.to_frame().set_index("score").loc[score]


def test_the_auc_is_the_mann_whitney_statistic_with_ties_as_one_half():
    table = pool().round({"score": 0})
    found = row(meta_evaluate(table, ["score"]), "score")
    high, low = (table["score"][table["truth"] == truth] for truth in ("hides", "never knew"))
    assert found["auc"] == pytest.approx(mannwhitneyu(high, low).statistic / (len(high) * len(low)))
    assert found["auc_low"] < found["auc"] < found["auc_high"]
    assert (found["present"], found["absent"]) == (30, 30)


def test_shuffled_labels_give_one_half():
    rng, table = np.random.default_rng(0), pool(effect=3.0)
    assert row(meta_evaluate(table, ["score"], draws=10), "score")["auc"] > 0.95
    shuffled = [
        row(meta_evaluate(table.assign(truth=rng.permutation(table["truth"])), ["score"], draws=10), "score")["auc"]
        for _ in range(200)
    ]
    # The standard deviation of the AUC of 30 and 30 random models is sqrt(61/(12·900)).
    assert np.mean(shuffled) == pytest.approx(0.5, abs=4 * math.sqrt(61 / 10800 / 200))


def test_models_of_other_truths_and_undefined_scores_are_not_counted():
    table = pool()
    more = pd.DataFrame({"model": ["u"], "truth": ["unknown"], "cluster": [0], "score": [99.0], "noise": [99.0]})
    with_gap = pd.concat([table, more], ignore_index=True)
    with_gap.loc[0, "noise"] = math.nan
    found = meta_evaluate(with_gap, ["score", "noise"])
    assert row(found, "score")["auc"] == row(meta_evaluate(table, ["score"]), "score")["auc"]
    assert row(found, "noise")["present"] == 29


def test_a_perfect_score_has_an_interval():
    table = pool(effect=50.0)
    found = row(meta_evaluate(table, ["score"]), "score")
    assert found["auc"] == found["auc_high"] == 1
    assert 0.8 < found["auc_low"] < 0.99


def test_the_difference_of_two_scores_comes_from_the_same_draws():
    found = meta_evaluate(pool(effect=3.0), ["score", "noise"], against="score")
    noise = row(found, "noise")
    assert noise["behind"] == pytest.approx(row(found, "score")["auc"] - noise["auc"])
    assert 0 < noise["behind_low"] < noise["behind"] < noise["behind_high"]
    assert math.isnan(row(found, "score")["behind_low"])


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_intervals_of_the_auc_cover(spread):
    """The truth is the mean AUC of many pools; clusters differ in how much their models show."""
    truth = np.mean([row(meta_evaluate(pool(effect=1.0, spread=spread, seed=s), ["score"], draws=2), "score")["auc"]
                     for s in range(1000, 1400)])  # fmt: skip
    hits = 0
    for seed in range(150):
        found = row(meta_evaluate(pool(effect=1.0, spread=spread, seed=seed), ["score"], draws=400), "score")
        hits += found["auc_low"] <= truth <= found["auc_high"]
    assert hits / 150 >= 0.88  # 0.93, less three standard errors


@given(before=UNIT, after=UNIT, first=UNIT, last=UNIT)
def test_stabilities_follow_the_published_formulas(before, after, first, last):
    found = relearning_stability(before, after, first, last)
    assert 0 <= found <= 1
    if after > before and last >= first:
        assert found == min((last - first) / (after - before), 1)
    found = rounding_stability(before, after)
    assert found == (min(before / after, 1) if after > 0 else 1)


@given(before=SIGNED, after=SIGNED)
def test_a_score_below_zero_counts_as_zero(before, after):
    """Probes subtract what the retrained model gives, so their scores can be negative."""
    found = rounding_stability(before, after)
    assert 0 <= found <= 1
    assert found == rounding_stability(max(before, 0.0), max(after, 0.0))


def test_robustness_is_the_harmonic_mean_of_the_mean_stabilities():
    table = pd.DataFrame(
        {
            "model": ["r", "a", "b", "c"], "truth": ["never knew", "hides", "hides", "unknown"],
            "cluster": [0, 1, 2, 2], "retrained": [None, "r", "r", "r"], "em": [0.1, 0.2, 0.2, 0.5],
        }
    )  # fmt: skip
    relearned = pd.DataFrame({"model": ["r", "a", "b", "c"], "em": [0.3, 0.6, 0.4, 0.4]})
    rounded = pd.DataFrame({"model": ["a", "b", "c"], "em": [0.4, 0.2, 0.5]})
    found = row(meta_evaluate(table, ["em"], relearned=relearned, rounded=rounded), "em")
    r, q = (0.5 + 1 + 1) / 3, (0.5 + 1 + 1) / 3
    assert (found["R"], found["Q"]) == (pytest.approx(r), pytest.approx(q))
    assert found["robustness"] == pytest.approx(2 * r * q / (r + q))
    assert found["robustness_low"] < found["robustness"] <= found["robustness_high"] <= 1


def excesses(recovered: int, n: int = 48):
    """Two probes; one brings back the first `recovered` of n facts about eight subjects."""
    first = torch.arange(n) < recovered
    none = torch.zeros(n, dtype=torch.bool)
    outcomes = {"prefill": Outcomes(first, none), "noise": Outcomes(none, none)}
    return dict(simultaneous_differences(outcomes, [str(i // 6) for i in range(n)]))


@pytest.mark.parametrize(("lost", "recovered"), [(48, 48), (48, 20), (48, 0), (20, 0), (0, 0), (30, 40)])
def test_the_verdict_changes_its_mind_at_its_score(lost, recovered):
    forgetting, found, destroyed = Rate(lost, 48), excesses(recovered), MeanRate((Rate(0, 48), Rate(0, 48)))
    score = verdict_score(forgetting, found)
    assert 0 <= score <= 1

    def knows(epsilon):
        return bool({"hid", "insufficient"} & set(verdict(forgetting, destroyed, found, epsilon=epsilon).labels))

    if score > 1e-3:
        assert knows(score - 1e-6)
    assert not knows(score + 1e-6)


def test_the_score_needs_one_defined_part():
    assert math.isnan(verdict_score(Rate(0, 0), {}))
    assert verdict_score(Rate(0, 0), excesses(48)) > 0.4
    assert verdict_score(Rate(0, 48), {}) == pytest.approx(1 - Rate(0, 48).high)


def test_results_are_saved_and_loaded(tmp_path):
    found = meta_evaluate(pool(), ["score", "noise"], against="score", draws=50)
    ul.save(found, tmp_path / "meta")
    assert ul.load(tmp_path / "meta") == found


@pytest.mark.parametrize(
    ("change", "scores", "options", "message"),
    [
        ({}, "score", {}, r"scores='score' is one text; give a list of columns, e.g. scores=\['score'\]"),
        ({}, ["scor"], {}, "no column 'scor'; did you mean 'score'"),
        ({}, ["score"], {"against": "verdict"}, "no column 'verdict'"),
        ({"model": "m0"}, ["score"], {}, "model 'm0' occurs twice in the table"),
        ({"truth": "hides"}, ["score"], {}, r"no model has a truth of \['never knew'\]; the truths are \['hides'\]"),
        ({"cluster": 0}, ["score"], {}, "1 clusters; give models of at least 3"),
        ({}, ["score"], {"level": 95}, "level=95; a confidence level lies between 0 and 1"),
    ],
)
def test_bad_input_is_named(change, scores, options, message):
    with pytest.raises(InputError, match=message):
        meta_evaluate(pool().assign(**change), scores, **options)


def test_a_relearned_model_without_its_retrained_model_is_named():
    table = pool().assign(retrained="m1")
    with pytest.raises(InputError, match="model 'm0' was relearned, and its retrained model 'm1' was not; add its row"):
        meta_evaluate(table, ["score"], relearned=table.loc[:0, ["model", "score"]])
