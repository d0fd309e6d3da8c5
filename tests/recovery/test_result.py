"""Rates, net rates and excess depend on the answers for the common set only."""

from dataclasses import replace

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.evaluation.verdict import verdict
from unpact_lens.recovery.result import Recovery
from unpact_lens.results import load, save
from unpact_lens.stats.estimate import Contrast, Rate
from unpact_lens.stats.tests import mcnemar

ROWS = ("focus_list", "quotes", "random_words:focus_list", "random_words:quotes", "unrelated", "paraphrase",
        "wrong_subject", "prefill", "relearn")  # fmt: skip
FAMILIES = ("emphasis", "emphasis", *["control"] * 5, "probe", "probe")
N = 10


def row(*right: int) -> torch.Tensor:
    """True for these facts."""
    flags = torch.zeros(N, dtype=torch.bool)
    flags[list(right)] = True
    return flags


ALL, NONE = row(*range(N)), row()


def made(**changes) -> Recovery:
    """Ten facts; 0 stays known, 1 was never known, 2 is unknown under quotes before, 3 leaks: common are 4 to 9."""
    after = {
        "focus_list": row(0, 2, 3, 4, 5, 6), "quotes": row(4), "random_words:focus_list": row(4),
        "random_words:quotes": NONE, "unrelated": row(5, 6), "paraphrase": row(4, 5, 6, 7), "wrong_subject": NONE,
        "prefill": row(4, 5, 6, 7, 8), "relearn": row(6, 7),
    }  # fmt: skip
    before = torch.stack([ALL.clone() for _ in ROWS])
    before[ROWS.index("quotes"), 2] = False
    before[ROWS.index("wrong_subject")] = False
    asked = torch.ones(len(ROWS), N, dtype=torch.bool)
    asked[ROWS.index("relearn"), 4:6] = False
    control = torch.stack([row(4) if r in ("focus_list", "prefill") else NONE for r in ROWS])
    values = {
        "probes": ROWS,
        "families": FAMILIES,
        "items": tuple(str(i) for i in range(N)),
        "subjects": tuple(f"s{i // 2}" for i in range(N)),
        "kinds": ("place",) * N,
        "asked": asked,
        "compared": tuple(r for r in ROWS if r not in ("wrong_subject", "relearn")),
        "right_before": before,
        "right_after": torch.stack([after[r] for r in ROWS]),
        "right_control": control,
        "plain_before": ~row(1),
        "plain_after": row(0),
        "plain_control": NONE,
        "excluded": {"3": "the focus_list prompt holds the fact"},
        "set_apart": {"doubled": 0.1},
        "oracle": True,
        "headline": "focus_list",
        "never_items": (),
        "never_asked": torch.ones(len(ROWS), 0, dtype=torch.bool),
        "never_right": torch.zeros(len(ROWS), 0, dtype=torch.bool),
    }
    return Recovery(**{**values, **changes})


def test_the_common_set_is_right_before_wrong_after_and_not_excluded():
    assert made().common.nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8, 9]


def test_a_fact_without_a_compared_prompt_is_not_in_the_common_set():
    recovery = made()
    asked = recovery.asked.clone()
    asked[ROWS.index("paraphrase"), 9] = False
    assert made(asked=asked).common.nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]


def test_the_wrong_subject_and_relearning_do_not_narrow_the_common_set():
    recovery = made()
    assert not recovery.right_before[ROWS.index("wrong_subject")].any()
    assert not recovery.asked[ROWS.index("relearn"), 4]
    assert recovery.n_common == 6


def test_rates_are_counted_on_the_common_set():
    recovery = made()
    rate = recovery.rate("focus_list")
    assert (rate.count, rate.n) == (3, 6)
    assert (recovery.rate("prefill").count, recovery.rate("prefill").n) == (5, 6)
    # Facts 4 and 5 were taught, so they cannot be tested.
    assert (recovery.rate("relearn").count, recovery.rate("relearn").n) == (2, 4)


def test_net_recovery_is_paired_against_each_control():
    recovery = made()
    assert recovery.controls == ("random_words:focus_list", "unrelated", "paraphrase", "wrong_subject", "retrain")
    assert {c: round(d.value * 6) for c, d in recovery.nets.items()} == {
        "random_words:focus_list": 2, "unrelated": 1, "paraphrase": -1, "wrong_subject": 3, "retrain": 2,
    }  # fmt: skip
    net = recovery.net("random_words")
    assert net == recovery.nets["random_words:focus_list"]
    assert (net.both, net.only_first, net.only_second, net.neither) == (1, 2, 0, 3)
    # Facts 4 to 9 are of three subjects.
    assert (net.clusters, net.p) == (3, mcnemar(2, 0))
    assert recovery.net("random_words", "quotes").value == pytest.approx(1 / 6)


def test_net_worst_is_the_smallest_net_rate_over_the_controls():
    control, net = made().net_worst
    assert control == "paraphrase"
    assert net.value == pytest.approx(-1 / 6)


def test_p_values_are_adjusted_over_the_controls():
    recovery = made()
    adjusted = recovery.net_p
    assert adjusted["wrong_subject"] == pytest.approx(min(1, 5 * mcnemar(3, 0)))
    assert all(adjusted[c] >= recovery.nets[c].p for c in adjusted)


def test_excess_is_the_difference_to_the_retrained_model_under_the_same_probe():
    recovery = made()
    assert recovery.excess("focus_list").value == pytest.approx(2 / 6)
    assert recovery.excess("prefill").value == pytest.approx(4 / 6)
    assert recovery.excess("relearn").value == pytest.approx(2 / 4)
    assert recovery.stand_in is None


def test_a_verdict_uses_emphasis_paraphrase_and_probes():
    assert tuple(made().excesses) == ("focus_list", "quotes", "paraphrase", "prefill", "relearn")


def test_a_model_against_itself_has_no_excess():
    recovery = made()
    same = replace(recovery, right_control=recovery.right_after)
    assert all(e.value == 0 for e in same.excesses.values())


def test_an_empty_common_set_gives_undefined_rates_not_zero():
    recovery = made(plain_after=ALL)
    assert recovery.n_common == 0
    assert recovery.rate("focus_list").n == 0
    assert recovery.net_worst is None
    assert str(recovery.excess("prefill")) == "undefined"
    assert recovery.to_frame()["R"].isna().all()


def without_retrain(**changes):
    never = torch.zeros(len(ROWS), 4, dtype=torch.bool)
    never[ROWS.index("prefill"), :2] = True
    asked = torch.ones_like(never)
    asked[ROWS.index("unrelated")] = False
    return made(
        right_control=None,
        plain_control=None,
        never_items=tuple("abcd"),
        never_asked=asked,
        never_right=never,
        **changes,
    )


def test_without_a_retrained_model_the_larger_substitute_rate_is_subtracted():
    recovery = without_retrain()
    assert recovery.stand_in == "wrong subject and never-known facts"
    assert recovery.never_rate("prefill") == Rate(2, 4)
    assert recovery.excess("prefill") == Contrast(recovery.rate("prefill"), Rate(2, 4))
    assert (recovery.rate("prefill").count, recovery.rate("prefill").n) == (5, 6)
    right = recovery.right_after.clone()
    right[ROWS.index("wrong_subject"), 4:8] = True
    wrong = without_retrain(right_after=right).excess("prefill")
    assert (wrong.value, wrong.n) == (pytest.approx(1 / 6), 6)
    assert "retrain" not in recovery.controls
    assert recovery.to_frame().set_index("probe").loc["prefill", "never known"] == 0.5


def test_excess_without_any_substitute_is_undefined_and_everything_else_is_there():
    rows = [i for i, r in enumerate(ROWS) if r != "wrong_subject"]
    bare = made(
        probes=tuple(ROWS[i] for i in rows), families=tuple(FAMILIES[i] for i in rows),
        **{k: getattr(made(), k)[rows] for k in ("asked", "right_before", "right_after", "never_asked", "never_right")},
        right_control=None,
    )  # fmt: skip
    assert bare.excess("prefill").n == 0
    assert str(bare.excess("prefill")) == "undefined"
    assert all(e.n == 0 for e in bare.excesses.values())
    assert bare.stand_in == "nothing, so the excess is undefined"
    frame = bare.to_frame().set_index("probe")
    assert frame.loc["prefill", "R"] == bare.rate("prefill").value > 0
    assert frame["excess"].isna().all()
    assert verdict(Rate(100, 100), Rate(0, 100), bare.excesses).labels == ("undecided",)
    assert "insufficient" in verdict(Rate(10, 100), Rate(0, 100), bare.excesses).labels


def test_the_table_has_a_row_for_each_probe_and_one_for_the_retrained_model():
    frame = made().to_frame().set_index("probe")
    assert tuple(frame.index) == (*ROWS, "retrain")
    assert frame.loc["prefill", "R"] == pytest.approx(5 / 6)
    assert frame.loc["prefill", "control"] == pytest.approx(1 / 6)
    assert frame.loc["prefill", "excess"] == pytest.approx(4 / 6)
    assert frame.loc["retrain", "net"] == pytest.approx(2 / 6)
    assert frame.loc["quotes", "before"] == pytest.approx(0.9)
    assert frame["net"].notna().sum() == 5


def test_errors_offer_the_nearest_names():
    with pytest.raises(InputError, match="unknown probe 'prefil'; did you mean 'prefill'"):
        made().rate("prefil")
    with pytest.raises(InputError, match="no retrained model was given"):
        without_retrain().net("retrain")


def test_a_recovery_is_saved_and_loaded_without_loss(tmp_path):
    for k, recovery in enumerate((made(), without_retrain())):
        save(recovery, tmp_path / str(k))
        assert load(tmp_path / str(k)) == recovery
