"""Measures of focus equal those computed by hand, equal models show no shift, and seeds are pooled."""

import math

import pandas as pd
import pytest
import torch

from experiments.focus import focus_study as module
from experiments.focus.focus_over_seeds import changed_heads, focus_over_seeds, focus_table, heads_table
from experiments.focus.focus_shift import (
    FOCUS_MEASURES,
    HEAD_MEASURES,
    Compared,
    FocusShift,
    ShiftOptions,
    focus_shift,
    head_shift,
    other_tokens,
)
from experiments.focus.focus_study import focus_study, spread
from tests.evaluation.world import benchmark, retrained, trained
from unpact_lens.attribution import TopK, attribute_many
from unpact_lens.comparison.key_path import key_path
from unpact_lens.decomposition import decompose
from unpact_lens.errors import InputError
from unpact_lens.study.config import load_config

NAN = math.nan


@pytest.fixture(scope="module")
def shift():
    return focus_shift(
        trained(), retrained(), benchmark().forget[:3], Compared("retrain"), ShiftOptions(TopK(2), draws=3)
    )


def test_contributions_equal_those_of_leave_one_out(shift):
    items = benchmark().forget[:3]
    before, after = (attribute_many(m, items, progress=False) for m in (trained(), retrained()))
    for i, (b, a) in enumerate(zip(before, after, strict=True)):
        keys = sorted(range(len(b.tokens)), key=lambda k: -float(b.scores[k]))[:2]
        assert shift.values["score_before"][i] == pytest.approx(float(b.scores[keys].sum()), abs=1e-6)
        assert shift.values["score_shift"][i] == pytest.approx(float((a.scores - b.scores)[keys].sum()), abs=1e-6)
        rest = [k for k in range(len(b.tokens)) if k not in keys]
        drawn = other_tokens(len(b.tokens), keys, 3, i)
        expected = sum(float((a.scores - b.scores)[list(d)].sum()) for d in drawn) / 3
        assert all(set(d) <= set(rest) and len(d) == 2 for d in drawn)
        assert shift.values["score_shift_random"][i] == pytest.approx(expected, abs=1e-6)


def test_head_measures_equal_the_decomposition_by_source(shift):
    qa = benchmark().forget[0]
    (b,) = attribute_many(trained(), [qa], progress=False)
    keys = list(b.key_tokens(TopK(2)).indices)
    moved = [decompose(m, qa.prompt, qa.answer, by="source").values.mean(-1) for m in (trained(), retrained())]
    at = [len(b.head_ids) + k for k in keys]
    torch.testing.assert_close(shift.heads["moves_before"][0], moved[0][..., at].sum(-1).double())
    torch.testing.assert_close(shift.heads["moves_shift"][0], (moved[1] - moved[0])[..., at].sum(-1).double())
    assert ((shift.heads["attends_before"] >= 0) & (shift.heads["attends_before"] <= 1)).all()


def test_mediation_equals_the_key_path(shift):
    qa = benchmark().forget[0]
    path = key_path(trained(), retrained(), qa.prompt, qa.answer, keys=TopK(2), draws=3, seed=0)
    assert shift.values["back_key"][0] / shift.values["lost"][0] == pytest.approx(path.share, rel=1e-5)
    assert shift.values["back_random"][0] / shift.values["lost"][0] == pytest.approx(path.share_rest, rel=1e-5)
    torch.testing.assert_close(shift.heads["back_key"][0], path.values.double())
    looks = key_path(trained(), retrained(), qa.prompt, qa.answer, keys=TopK(2), restore="pattern", draws=3, seed=0)
    assert shift.values["back_pattern"][0] / shift.values["lost"][0] == pytest.approx(looks.share, rel=1e-5)


def test_equal_models_show_no_shift():
    same = focus_shift(trained(), trained(), benchmark().forget[:2], Compared("same"))
    for name, values in same.values.items():
        if name.endswith(("shift", "shift_random")) or name == "lost":
            assert values.tolist() == [0, 0], name
    assert same.values["overlap"].tolist() == [1, 1]
    assert float(same.heads["moves_shift"].abs().max()) == 0


def test_head_shift_by_hand():
    b = torch.zeros(1, 1, 4)
    a = torch.tensor([[[9.0, 1.0, 2.0, 4.0]]])
    found = head_shift((b, b), (a, a), 1, (2,), [(0,), (1,)])
    assert found["moves_shift"].item() == 4
    assert found["moves_shift_random"].item() == 1.5  # of tokens 1 and 2: BOS, at 0, is never drawn
    assert head_shift((b, b), (a, a), 1, (0, 1, 2), [])["attends_shift_random"].isnan().all()


def test_other_tokens_never_include_key_tokens():
    assert other_tokens(3, (0, 1, 2), 4, 0) == []
    assert other_tokens(4, (0, 1, 2), 2, 0) == [(3,), (3,)]


def made(seed: int, group: str, lost: list[float], back: list[float], model: str = "ga") -> FocusShift:
    values = {name: torch.zeros(len(lost), dtype=torch.float64) for name in FOCUS_MEASURES}
    values |= {"lost": torch.tensor(lost), "back_key": torch.tensor(back), "overlap": torch.tensor(back)}
    heads = {name: torch.full((len(lost), 1, 2), float(seed)) for name in HEAD_MEASURES}
    return FocusShift(
        model, seed, group, tuple(f"{group}{i}" for i in range(len(lost))), ("a", "a", "b"), values, heads
    )


def test_pooling_over_seeds_by_hand():
    shifts = [
        made(0, "forget", [1.0, 2.0, 3.0], [0.5, 0.5, 0.5]),
        made(1, "forget", [3.0, 2.0, 1.0], [0.5, 1.5, 0.5]),
        made(0, "retain", [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]),
    ]
    frame = focus_over_seeds(shifts).set_index(["group", "head", "measure"])
    assert frame.loc[("forget", "", "lost"), "mean"] == 2
    assert frame.loc[("forget", "", "share_key"), "mean"] == pytest.approx(4 / 12)
    assert frame.loc[("forget", "", "share_net"), "mean"] == pytest.approx(4 / 12)
    assert math.isnan(frame.loc[("retain", "", "share_key"), "mean"])  # the loss is not significant
    assert frame.loc[("forget - retain", "", "overlap"), "mean"] == pytest.approx(2 / 3)
    assert frame.loc[("forget", "L0H1", "moves_shift"), "mean"] == 0.5
    row = frame.loc[("forget", "L0H1", "moves_shift")]
    assert (row["low"], row["high"]) == (0, 1)  # one seed drawn twice, at worst


def test_tables_show_means_with_intervals(tmp_path):
    shifts = [made(0, "forget", [1.0, 2.0, 3.0], [0.5] * 3), made(0, "forget", [0.0] * 3, [0.0] * 3, "unrelated")]
    frame = focus_over_seeds(shifts)
    table = focus_table(frame, [("forget", "overlap"), ("forget", "share_key")])
    assert table["overlap, forget"].tolist() == ["0.50 [0.50, 0.50]", "0.00 [0.00, 0.00]"]
    assert table["share_key, forget"].tolist()[1] == ""
    assert list(heads_table(frame, "moves_shift").columns) == ["model", "L0H0", "L0H1"]
    frame.to_csv(tmp_path / "frame.csv", index=False)
    again = pd.read_csv(tmp_path / "frame.csv")
    pd.testing.assert_frame_equal(heads_table(again, "moves_shift"), heads_table(frame, "moves_shift"))
    pd.testing.assert_frame_equal(
        focus_table(again, [("forget", "overlap")]), focus_table(frame, [("forget", "overlap")])
    )
    with pytest.raises(InputError, match="no rows with group 'retain'"):
        focus_table(frame, [("retain", "overlap")])


def test_heads_table_shows_the_heads_that_change_most():
    heads = {"L0H0": (0.1, 0.0), "L0H1": (-0.5, 0.1), "L1H0": (0.2, 0.2), "L1H1": (0.0, 0.4)}
    frame = pd.DataFrame(
        {"model": m, "group": "forget", "head": h, "measure": "moves_shift", "mean": v, "low": v, "high": v}
        for h, both in heads.items()
        for m, v in zip(("ga", "npo"), both, strict=True)
    )
    same = frame.assign(measure="attends_shift", mean=[0.9, 0.9, 0, 0, 0, 0, 0, 0])
    frame = pd.concat([frame, same], ignore_index=True)
    assert changed_heads(frame, "moves_shift", most=2) == ["L0H1", "L1H1"]
    assert changed_heads(frame, "moves_shift") == list(heads)
    shown = heads_table(frame, "attends_shift", by="moves_shift", most=2)
    assert list(shown.columns) == ["model", "L0H1", "L1H1"]
    with pytest.raises(InputError, match="no heads with group 'retain' and measure 'moves_shift'"):
        changed_heads(frame, "moves_shift", "retain")


def test_bad_input_is_named_in_the_error():
    with pytest.raises(InputError, match="no forget facts"):
        focus_shift(trained(), trained(), [], Compared("same"))
    with pytest.raises(InputError, match="draws=0"):
        ShiftOptions(draws=0)
    with pytest.raises(InputError, match="give at least one FocusShift"):
        focus_over_seeds([])
    with pytest.raises(InputError, match="different facts"):
        focus_over_seeds([made(0, "forget", [0.0] * 3, [0.0] * 3), made(1, "forget", [0.0] * 2, [0.0] * 2)])


def config(**changes):
    return load_config(
        {
            "name": "focus", "model": "builtin", "control": "builtin-retrain", "benchmark": "builtin", "threads": 1,
            "hold_out_phrasings": 1, "methods": [{"name": "ga", "settings": {"lr": 1e-4, "steps": 2}}],
            "contributions": {"forget": 2, "retain": 2, "key_tokens": 2}, **changes,
        }
    )  # fmt: skip


def test_study_has_controls_and_resumes(tmp_path, monkeypatch):
    found = focus_study(config(), tmp_path, draws=2, track_every=1, progress=False)
    assert {(s.model, s.group) for s in found.shifts} == {
        (m, g) for m in ("ga", "retrain", "unrelated") for g in ("forget", "paraphrase", "retain")
    }
    trained_frame = found.trained_frame().set_index("model")
    assert trained_frame.loc["ga", ["steps", "lr", "stopped"]].tolist() == [2, 1e-4, "step budget used up"]
    assert 0 < trained_frame.loc["ga", "forget_score"] <= 1
    assert trained_frame.loc["unrelated", ["steps", "lr"]].tolist() == [2, 1e-4]
    assert set(found.trajectory_frame()["step"]) == {0, 1, 2}
    frame = focus_over_seeds(found.shifts).set_index(["model", "group", "head", "measure"])
    assert frame.loc[("retrain", "forget", "", "lost"), "mean"] > 1
    assert frame.loc[("unrelated", "forget", "", "lost"), "mean"] < 0.5
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("fingerprint")}
    monkeypatch.setattr(module, "relearned", None)  # the control is not trained again either
    assert focus_study(config(), tmp_path, draws=2, track_every=1, progress=False) == found
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("fingerprint")} == times


def test_unknown_group_is_named_in_the_error(tmp_path):
    with pytest.raises(InputError, match="by_head has 'forgets'; did you mean 'forget'"):
        focus_study(config(), tmp_path, by_head=("forgets",))


def test_study_without_a_retrained_model_keeps_the_other_control(tmp_path):
    found = focus_study(config(control=None), tmp_path, draws=2, track_every=2, by_head=(), progress=False)
    assert {s.model for s in found.shifts} == {"ga", "unrelated"}
    assert "retrain" not in set(focus_over_seeds(found.shifts)["model"])


def test_study_without_held_out_paraphrases_is_refused(tmp_path):
    with pytest.raises(InputError, match="hold_out_phrasings=0"):
        focus_study(config(hold_out_phrasings=0), tmp_path)


def test_spread_covers_many_subjects():
    assert spread(range(96), 24) == list(range(0, 96, 4))
    assert spread("ab", 5) == ["a", "b"]
