"""Check that the tables of a report hold the numbers of the study."""

import math
from dataclasses import replace

import pytest

from tests.plots import studies
from unpact_lens.report import tables
from unpact_lens.report.sentences import number


@pytest.fixture(scope="module")
def study():
    return studies.study()


def test_the_verdict_table_has_the_numbers_of_the_frame(study):
    table = tables.verdict_table(study)
    frame = study.to_frame()
    assert [r["name"] for r in table["rows"]] == list(frame["method"])
    for made, (_, row) in zip(table["rows"], frame.iterrows(), strict=True):
        for column, shown in zip(table["columns"], made["cells"], strict=True):
            assert shown["text"] == number(row[column.key])
            if math.isnan(row[column.key]):
                assert shown["bar"] is None
    ga = table["rows"][0]
    f = [c.key for c in table["columns"]].index("F")
    assert ga["cells"][f]["interval"] == f"[{number(frame['F_low'][0])}, {number(frame['F_high'][0])}]"
    assert ga["verdicts"] == list(study.cells[0].verdict.labels)


def test_the_strongest_control_and_probe_are_named(study):
    table, frame = tables.verdict_table(study), study.to_frame()
    keys = [c.key for c in table["columns"]]
    ga = table["rows"][0]["cells"]
    assert ga[keys.index("excess")]["note"] == frame["excess_probe"][0].replace("_", " ")
    assert ga[keys.index("net_R")]["note"] == frame["net_R_control"][0].split(":")[0].replace("_", " ")


def test_the_row_of_the_retrained_model_has_forgetting_and_destruction_only(study):
    table = tables.verdict_table(study)
    shown = dict(zip([c.key for c in table["columns"]], table["control"], strict=True))
    assert shown["F"]["text"] == number(study.control.forgetting.value)
    assert shown["D_near"]["text"] == number(study.control.destruction_near.value)
    assert shown["excess"]["text"] == "–"
    assert tables.verdict_table(studies.study(control=False))["control"] is None


def test_destruction_of_trained_facts_stands_beside_that_of_unseen_ones(study):
    def with_parts(s):
        parts = tuple("" if g not in ("near", "far") else ("trained", "unseen")[i % 2] for i, g in enumerate(s.groups))
        return replace(s, parts=parts, settings={"retain_split": 1})

    cells = tuple(replace(c, scores=with_parts(c.scores)) for c in study.cells)
    split = replace(study, cells=cells, control=with_parts(study.control))
    table = tables.verdict_table(split)
    keys = [c.key for c in table["columns"]]
    assert {"D_trained", "memorised_retention"} <= set(keys)
    assert not {"D_trained", "memorised_retention"} & {c.key for c in tables.verdict_table(study)["columns"]}
    for row, cell in zip(table["rows"], cells, strict=True):
        shown = dict(zip(keys, row["cells"], strict=True))
        assert shown["D"]["text"] == number(cell.scores.destruction.value)
        assert shown["D_trained"]["text"] == number(cell.scores.destruction_trained.value)
        assert shown["D_trained"]["note"] == f"n = {cell.scores.destruction_trained.n}"
        assert shown["memorised_retention"]["text"] == number(cell.scores.memorised_retention.value)
    control = dict(zip(keys, table["control"], strict=True))
    assert control["D_trained"]["text"] == number(split.control.destruction_trained.value)


def test_every_column_has_a_definition():
    assert all(len(c.about) > 40 for c in tables.COLUMNS)


def test_the_scores_table_has_every_model_and_group(study):
    table = tables.scores_table(study)
    assert [r["name"] for r in table["rows"]][:3] == ["original model", "retrained model", "ga"]
    n = len(table["metrics"][0][1])
    ga = table["rows"][2]["cells"]
    assert ga[1]["text"] == number(study.cells[0].scores.mean("fact_span", "near"))
    assert ga[n]["text"] == number(study.cells[0].scores.mean("exact_match", "forget"))
    assert table["perplexity"] is False


def test_generated_answers_are_those_of_the_first_facts(study):
    cell = study.cells[3]
    rows = tables.generated_rows(study, cell)
    assert [r["prompt"] for r in rows] == [a.prompt for a in cell.focus.before]
    ids = [a.id for a in cell.focus.before]
    at = [cell.scores.ids.index(i) for i in ids if i in cell.scores.ids]
    assert [r["after"]["text"] for r in rows] == [cell.scores.generated[i] for i in at]
    assert [r["after"]["right"] for r in rows] == [bool(cell.scores.right[i]) for i in at]
    assert {"before", "after", "control"} <= set(rows[0])


def test_recovery_rows_have_the_numbers_of_the_frame(study):
    recovery = study.cells[1].recovery
    rows, frame = tables.recovery_rows(recovery), recovery.to_frame()
    assert len(rows) == len(frame)
    assert rows[0]["rate"] == number(frame["R"][0])
    assert rows[0]["control"] == number(frame["control"][0])
    assert rows[-1]["probe"] == "retrain"
    assert rows[-1]["rate"] == "–"
    never = tables.recovery_rows(studies.recovery(control=None))
    assert never[0]["control"] == "0.00"


def test_examples_are_of_the_first_facts_under_every_prompt(study):
    recovery = study.cells[0].recovery
    shown = tables.examples_of_first_facts(recovery, facts=1)
    assert {e.id for e in shown} == {"qa0"}
    assert [e.probe for e in shown] == ["plain", *recovery.probes]


def test_facts_are_counted_by_group(study):
    assert tables.by_group(study.before) == studies.GROUP_SIZES
    known = tables.by_group(study.before, known=True)
    assert known["forget"] == 40
    assert known["general"] == int(study.before.right[-10:].sum())


def test_the_number_of_facts_is_shown_below_a_rate(study):
    table = tables.verdict_table(study)
    shown = dict(zip([c.key for c in table["columns"]], table["rows"][4]["cells"], strict=True))
    assert shown["F"]["note"] == "n = 40"
    assert shown["R"] == {"text": "–", "interval": "", "bar": None, "note": "n = 0"}
