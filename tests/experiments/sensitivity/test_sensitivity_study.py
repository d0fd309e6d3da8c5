"""Conclusions equal those that the library draws elsewhere, and survival is checked by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from experiments.sensitivity.choices import BASELINE, CHOICES, Choice
from experiments.sensitivity.conclusions import Evidence, conclusions, judged
from experiments.sensitivity.sensitivity_study import sensitivity_study
from experiments.sensitivity.survival import survival, survival_table
from experiments.sensitivity.survival_map import survival_map
from tests.evaluation.world import benchmark, retrained, trained
from unpact_lens.attribution import Share, TopK, attribute_many
from unpact_lens.attribution.similarity import jaccard
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError
from unpact_lens.evaluation import evaluate
from unpact_lens.recovery import recover
from unpact_lens.results import load, save
from unpact_lens.study.config import load_config


def drawn(choice, afters=None):
    bench = benchmark()
    afters = {"retrain": [retrained()], "nothing": [trained()]} if afters is None else afters
    return conclusions(choice, Evidence(trained(), afters, bench, bench.forget[:4], bench.retain[:4]))


def test_baseline_draws_all_conclusions_of_every_method():
    frame = drawn(BASELINE).to_frame()
    assert frame.groupby("conclusion")["method"].apply(list).to_dict() == {
        "net R": ["retrain", "nothing"], "focus": ["retrain", "nothing"], "F ranking": ["retrain - nothing"],
    }  # fmt: skip
    ranking = frame.set_index("conclusion").loc["F ranking"]
    forgot = evaluate(retrained(), benchmark(), before=trained()).forgetting
    assert ranking["value"] == forgot.value  # the original model forgot nothing
    assert ranking["low"] > 0
    rows = frame.set_index(["conclusion", "method"])
    assert rows.loc[("net R", "nothing"), "n"] == 0  # no fact was forgotten
    assert rows.loc[("focus", "nothing"), "value"] == 0


def test_net_r_equals_that_of_recover():
    bench = benchmark()
    ours = drawn(Choice("rule", "k", rule=TopK(2))).to_frame().set_index(["conclusion", "method"])
    theirs = recover(
        retrained(), replace(bench, forget=tuple(replace(q, paraphrases=(), wrong_subject=None) for q in bench.forget)),
        before=trained(), templates=["focus_list"], rule=TopK(2), probes=(), progress=False,
    ).net("random_words")  # fmt: skip
    row = ours.loc[("net R", "retrain")]
    assert row["value"] == pytest.approx(theirs.value)


def test_focus_equals_overlap_on_forget_minus_overlap_on_retain():
    bench, rule = benchmark(), Share(0.8)
    means = []
    for part in (bench.forget[:4], bench.retain[:4]):
        sides = [attribute_many(m, part, method="knockout", progress=False) for m in (trained(), retrained())]
        overlaps = [jaccard(*(s.key_tokens(rule).indices for s in pair)) for pair in zip(*sides, strict=True)]
        means.append(sum(overlaps) / 4)
    frame = drawn(Choice("both", "x", rule=rule, attribution="knockout")).to_frame()
    row = frame.set_index(["conclusion", "method"]).loc[("focus", "retrain")]
    assert row["value"] == pytest.approx(means[0] - means[1])
    assert row["low"] <= row["value"] <= row["high"]


def test_choice_draws_only_what_it_can_change():
    assert BASELINE.conclusions == ("net R", "focus", "F ranking")
    assert Choice("metric", "x", metric="rouge_l").conclusions == ("net R", "F ranking")
    assert Choice("rule", "x", rule=TopK(1)).conclusions == ("net R", "focus")
    assert Choice("emphasis", "x", template="quotes").conclusions == ("net R",)
    assert Choice("question", "x", phrasing=0).conclusions == BASELINE.conclusions


def test_choices_start_with_the_baseline_and_are_valid():
    assert CHOICES[0] == BASELINE
    assert len({(c.dimension, c.name) for c in CHOICES}) == len(CHOICES)
    assert all(EMPHASIS[c.template].needs_words for c in CHOICES)
    assert {c.dimension for c in CHOICES} == {
        "baseline", "KeyToken rule", "KeyTokens towards", "attribution", "metric", "emphasis", "question",
    }  # fmt: skip


def test_fact_only_changes_the_contributions():
    one, other = (drawn(Choice("towards", "x", fact_only=f, rule=TopK(1))).to_frame() for f in (False, True))
    assert one["conclusion"].tolist() == other["conclusion"].tolist()
    assert not one.equals(other)


def test_metrics_judge_at_their_thresholds():
    qa = benchmark().forget[0]
    wrong = qa.answer.replace(qa.fact, "nowhere")
    assert judged("fact_span", [qa.fact, wrong], [qa, qa]).tolist() == [True, False]
    assert judged("exact_match", [qa.fact, qa.answer], [qa, qa]).tolist() == [False, True]
    assert judged("rouge_l", [wrong, ""], [qa, qa]).tolist() == [
        True,
        False,
    ]  # the sentence is right, the fact is wrong


ROWS = pd.DataFrame(
    [
        ("baseline", "b", "net R", "ga", 9, 0.3, 0.1, 0.5),
        ("baseline", "b", "net R", "npo", 9, 0.0, -0.1, 0.1),
        ("rule", "k1", "net R", "ga", 9, 0.2, -0.1, 0.5),
        ("rule", "k1", "net R", "npo", 9, 0.05, -0.1, 0.2),
        ("metric", "rouge", "net R", "ga", 0, math.nan, math.nan, math.nan),
    ],
    columns=["dimension", "choice", "conclusion", "method", "n", "value", "low", "high"],
)


def test_survival_means_equal_sign_and_significance(tmp_path):
    found = survival(ROWS)
    assert found["sign"].tolist() == ["+", "0", "0", "0", ""]
    assert found["was"].tolist() == ["+", "0", "+", "0", "+"]
    assert found["survives"].tolist() == [True, True, False, True, False]
    table = survival_table(found).set_index("choice")["net R"]
    assert table.to_dict() == {
        "b": "ga + (0.30); npo 0 (0.00)", "k1": "1 of 2: ga + → 0", "rouge": "0 of 1: ga + → undefined",
    }  # fmt: skip
    found.to_csv(tmp_path / "found.csv", index=False)
    pd.testing.assert_frame_equal(survival_table(pd.read_csv(tmp_path / "found.csv")), survival_table(found))
    with pytest.raises(InputError, match="conclusion 'net R' of 'npo' has no row of the baseline"):
        survival(ROWS.drop(index=1))


def test_map_frames_changed_conclusions():
    fig = survival_map(survival(ROWS))
    assert list(fig.data[0].text[0]) == ["0.30*", "0.00"]
    assert [(s.x0 + s.x1, s.y0 + s.y1) for s in fig.layout.shapes] == [(0, 2), (0, 4)]


def test_bad_input_is_named_in_the_error():
    with pytest.raises(InputError, match="'repeat_question' takes no words"):
        drawn(Choice("emphasis", "x", template="repeat_question"))
    with pytest.raises(InputError, match="did you mean 'rouge_l'"):
        drawn(Choice("metric", "x", metric="rouge-l"))
    with pytest.raises(InputError, match="phrasing=3, but 'place/ann' has 1"):
        drawn(Choice("question", "x", phrasing=3))


@pytest.mark.slow
def test_study_resumes(tmp_path):
    config = load_config(
        {
            "name": "s", "model": "builtin", "control": "builtin-retrain", "benchmark": "builtin", "threads": 1,
            "hold_out_phrasings": 1, "methods": [{"name": "ga", "settings": {"lr": 1e-3, "steps": 2}}],
            "contributions": {"forget": 2, "retain": 2},
        }
    )  # fmt: skip
    choices = (replace(BASELINE, rule=TopK(1)), Choice("metric", "exact", metric="exact_match"))
    frame = sensitivity_study(config, tmp_path / "out", models=tmp_path / "models", choices=choices, progress=False)
    assert frame["dimension"].unique().tolist() == ["baseline", "metric"]
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("fingerprint")}
    assert len(times) == 3
    again = sensitivity_study(config, tmp_path / "out", models=tmp_path / "models", choices=choices, progress=False)
    pd.testing.assert_frame_equal(frame, again)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("fingerprint")} == times
    kept = drawn(BASELINE, {"retrain": [retrained()]})
    assert load(save(kept, tmp_path / "kept")) == kept
