"""The dilemma over seeds: by hand, by kind of knowledge, and between methods."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from tests.plots import studies
from unpact_lens.errors import InputError
from unpact_lens.report import write_report
from unpact_lens.results import load, save
from unpact_lens.study.dilemma import dilemma, dilemma_by_kind, distance_gaps, kinds_table


def cell(method, seed, *, back=0.3, near=0.9, kinds=None):
    made = studies.cell(method, seed=seed, back=back, near=near)
    if kinds is None:
        return made
    n = len(made.recovery.items)
    scores = replace(made.scores, kinds=tuple(kinds[i % 2] for i in range(len(made.scores.ids))))
    return replace(made, scores=scores, recovery=replace(made.recovery, kinds=tuple(kinds[i % 2] for i in range(n))))


@pytest.fixture(scope="module")
def study():
    cells = [cell(m, s, back=back, near=near) for m, back, near in (("ga", 0.1, 0.1), ("npo", 0.6, 0.9))
             for s in range(3)]  # fmt: skip
    return studies.study(cells=tuple(cells))


def test_one_seed_gives_the_numbers_of_its_cell(study):
    one = studies.study(cells=study.cells[:1])
    ours, theirs = dilemma(one).to_frame().iloc[0], one.to_frame().iloc[0]
    for name in ("F", "D", "D_near", "D_far", "excess", "distance"):
        assert ours[name] == pytest.approx(theirs[name])
    assert ours["excess_probe"] == theirs["excess_probe"]
    assert ours["common"] == theirs["common"]


def test_each_fact_counts_with_its_mean_over_seeds(study):
    frame = dilemma(study).to_frame().set_index("method")
    for method in ("ga", "npo"):
        cells = [c for c in study.cells if c.method == method]
        assert frame.loc[method, "D"] == pytest.approx(sum(c.scores.destruction.value for c in cells) / 3)
        assert frame.loc[method, "seeds"] == 3
        row = frame.loc[method]
        assert row["distance"] == pytest.approx(math.hypot(1 - row["F"], max(0, row["excess"]), row["D"]))
        assert row["distance_low"] < row["distance"] < row["distance_high"]


def test_without_near_facts_destruction_is_that_of_far_facts(study):
    def only_far(c):
        return replace(c, scores=replace(c.scores, groups=tuple("far" if g == "near" else g for g in c.scores.groups)))

    one = replace(study, cells=tuple(map(only_far, study.cells)))
    assert one.cells[0].scores.destruction.value == one.cells[0].scores.destruction_far.value
    assert one.cells[0].scores.destruction.n == one.cells[0].scores.destruction_far.n
    frame = dilemma(one).to_frame().set_index("method")
    assert frame["D"].tolist() == frame["D_far"].tolist()
    assert frame["D_near"].isna().all()
    for _, row in frame.iterrows():
        assert row["distance"] == pytest.approx(math.hypot(1 - row["F"], max(0, row["excess"]), row["D"]))
        assert row["distance_low"] < row["distance"] < row["distance_high"]


def test_intervals_have_a_width_even_if_no_fact_differs():
    made = studies.cell("ga")
    gone = replace(made.scores, values=torch.zeros_like(made.scores.values))
    nothing = replace(
        made.recovery,
        right_after=torch.zeros_like(made.recovery.right_after),
        right_control=torch.zeros_like(made.recovery.right_after),
    )
    row = dilemma(studies.study(cells=(replace(made, scores=gone, recovery=nothing),))).rows[0]
    assert (row["F"], row["D"], row["excess"]) == (1, 1, 0)
    for name in ("F", "D", "excess", "distance"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row[f"{name}_high"] - row[f"{name}_low"] > 0.02
    assert row["distance"] == 1
    assert row["verdict"] == "destroyed"


def test_without_a_retrained_model_excess_is_over_the_wrong_subject():
    cells = tuple(studies.cell("ga", seed=s, back=0.6, control=None) for s in range(2))
    row = dilemma(studies.study(control=False, cells=cells)).rows[0]
    names = cells[0].recovery.probes
    wrong = names.index("wrong_subject")

    def over(probe):  # each fact counts with its mean over the seeds in which it is in the common set
        i = names.index(probe)
        gains = torch.stack(
            [c.recovery.right_after[i].double() - c.recovery.right_after[wrong].double() for c in cells]
        )
        among = torch.stack([c.recovery.common for c in cells])
        per_fact = gains.masked_fill(~among, 0).sum(0) / among.sum(0)
        return float(per_fact[among.any(0)].mean())

    excess = {probe: over(probe) for probe in cells[0].recovery.excess_probes}
    assert row["excess"] == pytest.approx(max(excess.values()))
    assert row["excess_probe"] == max(excess, key=excess.get)
    assert row["distance_low"] < row["distance"] < row["distance_high"]


def test_kinds_are_separate_and_average_to_all_facts():
    study = studies.study(cells=tuple(cell("ga", s, kinds=("place", "date")) for s in range(2)))
    frame = dilemma_by_kind(study)
    assert frame["kind"].tolist() == ["place", "date"]
    assert frame["F"].mean() == pytest.approx(dilemma(study).rows[0]["F"])  # as many facts of each
    table = kinds_table(frame, "F")
    assert list(table.columns) == ["place", "date"]
    assert table.loc["ga", "place"].startswith(f"{frame['F'][0]:.2f} [")
    assert frame["common"].sum() == pytest.approx(dilemma(study).rows[0]["common"])


def test_gaps_are_paired_and_have_a_sign(study):
    gap = distance_gaps(study, "npo").iloc[0]
    at = dilemma(study).to_frame().set_index("method")["distance"]
    assert gap["against"] == "ga"
    assert gap["gap"] == pytest.approx(at["ga"] - at["npo"])
    assert gap["gap_low"] < gap["gap"] < gap["gap_high"]
    twin = studies.study(cells=(*study.cells[:3], *(replace(c, method="twin") for c in study.cells[:3])))
    none = distance_gaps(twin, "ga").iloc[0]
    assert none["gap_low"] < none["gap"] == 0 < none["gap_high"]


def test_a_dilemma_is_plotted_and_saved(study, tmp_path):
    found = dilemma(study)
    assert {t.name for t in found.plot().data} == {"ga", "npo", "retrain"}
    assert load(save(found, tmp_path / "found")) == found
    pd.testing.assert_frame_equal(found.to_frame(), dilemma(study).to_frame())


def test_bad_input_is_named(study):
    with pytest.raises(InputError, match="kind 'plaice'; did you mean 'place'"):
        dilemma(study, kind="plaice")
    with pytest.raises(InputError, match="no 'R' with an interval"):
        kinds_table(dilemma_by_kind(study), "R")
    with pytest.raises(InputError, match="method 'nop' is not in the study; did you mean 'npo'"):
        distance_gaps(study, "nop")


def test_without_control_and_stand_ins_the_distance_is_undefined_and_the_verdict_undecided(tmp_path):
    alone = studies.cell("ga", control=None, near=0.95)
    names = tuple("reminder" if p == "wrong_subject" else p for p in alone.recovery.probes)
    nameless = replace(
        alone,
        recovery=replace(
            alone.recovery,
            probes=names,
            never_asked=alone.recovery.never_asked[:, :0],
            never_right=alone.recovery.never_right[:, :0],
            never_items=(),
        ),
    )
    study = studies.study(control=False, cells=(nameless,))
    row = dilemma(study).to_frame().iloc[0]
    assert math.isnan(row["excess"])
    assert math.isnan(row["distance"])
    assert not {"hid", "erased"} & set(row["verdict"].split(" + "))
    assert row["F"] == nameless.scores.forgetting.value
    assert "undefined" in study.summary()["excess (probe)"][0]
    assert "nothing, so the excess is undefined" in write_report(study, tmp_path / "report.html").read_text()


def test_destruction_is_of_unseen_facts_and_trained_ones_stand_beside():
    def with_parts(c, lost):
        s = c.scores
        parts = tuple("" if g not in ("near", "far") else ("trained", "unseen")[i % 2] for i, g in enumerate(s.groups))
        right = torch.tensor([not (p == "unseen" and i % lost == 1) for i, p in enumerate(parts)], dtype=torch.float)
        return replace(
            c, scores=replace(s, parts=parts, values=right.expand(3, -1).clone(), settings={"retain_split": 1})
        )

    cells = tuple(with_parts(studies.cell("ga", seed=seed), lost) for seed, lost in ((0, 2), (1, 4)))
    row = dilemma(studies.study(cells=cells)).to_frame().iloc[0]
    assert row["D"] == row["D_near"] == row["D_far"] == pytest.approx(0.75)
    assert row["D_trained"] == 0
    assert row["memorised_retention"] == pytest.approx(0.75)
    assert 0 < row["memorised_retention_low"] < 0.75 < row["memorised_retention_high"] <= 1
    assert row["distance"] == pytest.approx(math.hypot(1 - row["F"], max(0, row["excess"]), 0.75))
    frame = studies.study(cells=cells).to_frame()
    assert frame["D"].tolist() == [1, 0.5]
    assert frame["D_trained"].tolist() == [0, 0]
    assert frame["memorised_retention"].tolist() == [1, 0.5]
    assert studies.study(cells=cells).summary()["D trained"][0].startswith("0.00 [0.00, ")
