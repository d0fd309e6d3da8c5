"""Over seeds, a fact counts with its mean over the seeds in which it is in the common set."""

from dataclasses import dataclass, replace

import pytest
import torch

from experiments.recovery.method_by_probe import method_by_probe
from unpact_lens.errors import InputError
from unpact_lens.recovery.result import Recovery
from unpact_lens.study.pooled import by_probe, probes_over_seeds, wide

PROBES = ("focus_list", "random_words:focus_list", "paraphrase")


@dataclass
class Cell:
    method: str
    recovery: Recovery


@dataclass
class Study:
    cells: tuple


def recovery(right, plain_after, control=True, items=("a", "b", "c", "d")):
    n = len(items)
    every = torch.ones(3, n, dtype=torch.bool)
    return Recovery(
        probes=PROBES, families=("emphasis", "control", "control"), items=items, subjects=items, kinds=("place",) * n,
        asked=every, compared=PROBES, right_before=every, right_after=torch.tensor(right, dtype=torch.bool),
        right_control=~every if control else None, plain_before=every[0],
        plain_after=torch.tensor(plain_after, dtype=torch.bool), plain_control=None, excluded={}, set_apart={},
        oracle=True, headline="focus_list", never_items=(), never_asked=every[:, :0], never_right=every[:, :0],
    )  # fmt: skip


FIRST = recovery([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], [0, 0, 0, 0])
SECOND = recovery([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], [0, 0, 0, 1])  # d is still known: it does not count


def test_rates_and_differences_equal_a_computation_by_hand():
    frame = probes_over_seeds(Study((Cell("ga", FIRST), Cell("ga", SECOND)))).set_index("probe")
    assert frame.loc["focus_list", "n"] == 4
    assert frame.loc["focus_list", "R"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert frame.loc["focus_list", "excess"] == pytest.approx(1.5 / 4)
    assert frame.loc["focus_list", "net_random"] == pytest.approx((1.5 - 0.5) / 4)
    assert frame.loc["focus_list", "net_paraphrase"] == pytest.approx((1.5 - 3) / 4)
    assert frame["control"].tolist() == [0, 0, 0]
    assert frame.loc["paraphrase"][["net_random", "net_paraphrase"]].isna().all()


def test_without_a_retrained_model_excess_is_over_the_wrong_subject():
    alone = recovery([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], [0, 0, 0, 0], control=False)
    wrong = replace(alone, probes=("focus_list", "random_words:focus_list", "wrong_subject"), compared=())
    wrong.asked[2, 2] = False  # a fact without a wrong subject does not count
    frame = probes_over_seeds(Study((Cell("ga", wrong),))).set_index("probe")
    assert frame.loc["focus_list", "R"] == pytest.approx(2 / 4)
    assert frame.loc["focus_list", "control"] == pytest.approx(2 / 3)
    assert frame.loc["focus_list", "excess"] == pytest.approx((2 - 2) / 3)


def test_each_control_has_a_column_and_each_seed_its_own_asked_facts():
    names = ("patch_prompt", "unrelated_fact:patch_prompt", "wrong_subject")
    asked = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    first, second = (replace(r, probes=names, compared=names[1:], headline=names[0]) for r in (FIRST, SECOND))
    frame = probes_over_seeds(Study((Cell("ga", first), Cell("ga", replace(second, asked=asked))))).set_index("probe")
    assert frame.loc["patch_prompt", "R"] == pytest.approx((1 + 1 + 0 + 0) / 4)  # `a` counts in the first seed only
    assert frame.loc["patch_prompt", "net_random"] == pytest.approx((0 + 1 + 0 + 0) / 4)
    assert frame.loc["patch_prompt", "net_wrong_subject"] == pytest.approx((0 + 0 - 1 + 0) / 4)
    assert frame["net_unrelated"].isna().all()


def test_the_wide_table_has_one_row_for_each_method_and_the_figure_its_values():
    frame = probes_over_seeds(Study((Cell("npo", FIRST), Cell("ga", SECOND))))
    table = wide(frame, "excess", ["paraphrase", "focus_list"])
    assert table["method"].tolist() == ["npo", "ga"]
    assert table["focus_list"][0].startswith("0.50 [")
    both = wide(frame.assign(variant="one"), "R")
    assert list(both.columns) == ["variant", "method", *PROBES]
    turned = by_probe(frame.assign(variant="one"), "excess").set_index("probe")
    assert list(turned.index) == ["focus_list", "paraphrase"]  # no controls but the paraphrase
    assert turned.loc["focus_list", "npo, one"] == table["focus_list"][0]
    shown = method_by_probe(frame).data[0]
    assert shown.z.tolist() == [[0.5, 0.75], [pytest.approx(1 / 3), 1]]


def test_without_control_and_wrong_subject_the_excess_is_undefined_and_the_rest_is_not():
    made = recovery([[1] * 4] * 3, [0] * 4, control=False)
    frame = probes_over_seeds(Study((Cell("ga", made),))).set_index("probe")
    assert (
        frame["R"].tolist()
        == probes_over_seeds(Study((Cell("ga", replace(made, right_control=made.right_after)),)))["R"].tolist()
    )
    assert frame[["excess", "excess_low", "excess_high"]].isna().all(axis=None)
    assert wide(frame.reset_index(), "excess").iloc[0, 1:].tolist() == [""] * len(PROBES)


def test_bad_input_is_named():
    other = recovery([[0] * 4] * 3, [0] * 4, items=("a", "b", "c", "e"))
    with pytest.raises(InputError, match="its seeds were asked different facts"):
        probes_over_seeds(Study((Cell("ga", FIRST), Cell("ga", other))))
    with pytest.raises(InputError, match="probe 'prefill' is not in the table"):
        wide(probes_over_seeds(Study((Cell("ga", FIRST),))), "R", ["prefill"])
