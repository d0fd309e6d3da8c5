"""`from_pairs` reads what people bring: pairs, dicts, tables, data sets, files with a byte order mark, numbers."""

from __future__ import annotations

import json
import warnings

import pandas as pd
import pytest

from unpact_lens.data.benchmark import QA
from unpact_lens.data.custom import from_pairs
from unpact_lens.errors import InputError

PAIRS = [("Where is Oslo?", "Norway"), ("When was NATO founded?", "1949")]
ROWS = [{"prompt": prompt, "answer": answer} for prompt, answer in PAIRS]


def forms():
    import datasets

    return {
        "pairs": PAIRS, "lists": [list(pair) for pair in PAIRS], "dicts": ROWS, "frame": pd.DataFrame(ROWS),
        "mapping": dict(PAIRS), "generator": (row for row in ROWS), "data set": datasets.Dataset.from_list(ROWS),
        "items": [QA(prompt, f" {answer}") for prompt, answer in PAIRS],
        "questions": [{"question": prompt, "answer": answer} for prompt, answer in PAIRS],
        "numbers": [ROWS[0], {"prompt": PAIRS[1][0], "answer": 1949.0}],
    }  # fmt: skip


@pytest.mark.parametrize("name", forms())
def test_every_form_gives_the_same_items(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = from_pairs(forms()[name], retain_split=None).forget
    assert [(q.prompt, q.answer, q.id) for q in found] == [
        (PAIRS[0][0], " Norway", "row 1"), (PAIRS[1][0], " 1949", "row 2"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.JSON"])
def test_a_byte_order_mark_is_no_part_of_a_table(tmp_path, name):
    text = "prompt,answer\nWhere is Oslo?,Norway\n" if name == "a.csv" else json.dumps(ROWS[0])
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert from_pairs(tmp_path / name).forget[0].prompt == "Where is Oslo?"


def test_one_alias_is_a_list_of_one_and_numbers_are_texts():
    (found,) = from_pairs(
        [{**ROWS[1], "aliases": "the year 1949", "choices": [1949, 1950], "id": 7, "answer": 1949}]
    ).forget
    assert found.aliases == ("the year 1949",)
    assert found.id == "7"


def test_columns_that_are_not_read_are_warned_of():
    rows = [{**ROWS[0], "split": "forget"}, {**ROWS[1], "split": "retain"}]
    with pytest.warns(UserWarning, match="not read are the columns split;.* looks like the group of each item"):
        from_pairs(rows, retain_split=None)
    with pytest.warns(UserWarning, match="not read are the columns source; known are prompt"):
        from_pairs([{**ROWS[0], "source": "web"}])


def test_an_answer_in_a_chat_gets_no_blank():
    assert from_pairs(PAIRS, chat=True).forget[0].answer == "Norway"
    assert from_pairs(PAIRS, chat=False).forget[0].answer == " Norway"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([("a", "b", "c")], r"row 1: \('a', 'b', 'c'\) is no pair; give \(prompt, answer\), or a dict"),
        (["Where is Oslo?"], r"row 1: 'Where is Oslo\?' is no question with its answer; give \(prompt, "),
        ({"prompt": "Where is Oslo?", "answer": "Norway"}, "the dict holds columns, not {prompt: answer}; give rows"),
        (3, "the int is no table; give a file, a DataFrame, or a list"),
        ([], "the list is empty"),
        ([{"prompt": "a", "answer": True}], "column 'answer' should be text, got True"),
    ],
)
def test_what_is_no_table_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        from_pairs(source)


def test_a_data_set_with_several_tables_asks_for_one():
    import datasets

    both = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS))
    with pytest.raises(InputError, match=r"has the tables train, test; give one of them, e\.g\. data\['train'\]"):
        from_pairs(both)
