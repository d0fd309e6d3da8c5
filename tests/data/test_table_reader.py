"""Read a table from each format; errors name file, row and column."""

import json

import pandas as pd
import pytest

from unpact_lens.data.table_reader import INTEGER, TEXTS, Column, find_files, read_table, source
from unpact_lens.errors import InputError

SCHEMA = {"question": Column(), "wrong": Column(TEXTS, length=2), "n": Column(INTEGER, required=False)}
ROWS = [
    {"question": "Where\u2028is it?", "wrong": ["Bergen", "Paris"], "n": 1},
    {"question": "Who?", "wrong": ["Ann", "Bo"], "n": None},
]


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).astype({"n": "Int64"}).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["t.parquet", "t.json", "t.jsonl"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    rows = read_table(write(tmp_path / name), SCHEMA)
    assert rows == [{**r, "wrong": tuple(r["wrong"])} for r in ROWS]


def test_a_json_file_may_hold_one_row_a_line_as_the_hub_writes_it(tmp_path):
    file = tmp_path / "t.json"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    assert [r["question"] for r in read_table(file, SCHEMA)] == ["Where\u2028is it?", "Who?"]


def test_a_csv_writes_lists_as_json(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text('question,wrong\nNA?,"[""Bergen"", ""Paris""]"\n')
    assert read_table(file, SCHEMA) == [{"question": "NA?", "wrong": ("Bergen", "Paris"), "n": None}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Who?"}, r"t.jsonl, row 3: column 'wrong' is absent; the row has question"),
        ({"question": None, "wrong": ["a", "b"]}, "row 3: column 'question' is null"),
        ({"question": 7, "wrong": ["a", "b"]}, "row 3: column 'question' should be text, got 7"),
        ({"question": "Who?", "wrong": ["a"]}, "row 3: column 'wrong' should hold 2 texts, got 1"),
        ({"question": "Who?", "wrong": "a"}, "row 3: column 'wrong' should be a list of texts, got 'a'"),
        ({"question": "Who?", "wrong": ["a", "b"], "n": "x"}, "row 3: column 'n' should be integer, got 'x'"),
        ({"question": "Who?", "wrong": ["a", "b"], "n": True}, "row 3: column 'n' should be integer, got True"),
        (["Who?"], "row 3: expected an object with question, wrong, n, got"),
    ],
)
def test_a_wrong_row_is_named_by_file_row_and_column(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path / "t.jsonl", [*ROWS, row]), SCHEMA)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"question": "a"}\n{"question": \n', "t.jsonl, line 2 is not valid JSON"),
        ("t.json", b"[1, 2", "t.json is not valid JSON"),
        ("t.jsonl", b"\xff\xfe", "t.jsonl is not UTF-8 text"),
        ("t.jsonl", b"", "t.jsonl is empty; expected rows with question"),
        ("t.parquet", b"no", "t.parquet is not a readable parquet file"),
        ("t.csv", b"", "t.csv is not a readable csv file"),
        ("t.xlsx", b"", "t.xlsx is in none of the formats .jsonl, .json, .parquet, .csv"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name, SCHEMA)


@pytest.mark.parametrize(
    "name",
    ["raw/forget.json", "raw_forget.jsonl", "raw-forget.csv", "raw.parquet", "raw/forget/0000.parquet"],
)
def test_the_layouts_of_the_hub_are_found(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert find_files(tmp_path, "raw", "forget") == [file]
    assert find_files(tmp_path, "verbmem", "forget") == []


def test_shards_are_read_in_their_order(tmp_path):
    write(tmp_path / "raw" / "forget-00001-of-00002.parquet", ROWS[1:])
    write(tmp_path / "raw" / "forget-00000-of-00002.parquet", ROWS[:1])
    rows = source("a/b", tmp_path).table("raw", "forget", SCHEMA)
    assert [r["question"] for r in rows] == ["Where\u2028is it?", "Who?"]


def test_a_missing_table_says_where_to_place_it(tmp_path):
    with pytest.raises(InputError, match=r"has no table for a/b \(raw, forget\); place it there as raw/forget.<ext>"):
        source("a/b", tmp_path).table("raw", "forget", SCHEMA)
    with pytest.raises(InputError, match="is not a directory; give one that holds the files of a/b"):
        source("a/b", tmp_path / "nowhere")


def test_without_a_network_the_error_says_which_files_to_place_where(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        InputError, match=r"locuslab/TOFU \(forget01, train\) cannot be read .* place it in a directory"
    ):
        source("locuslab/TOFU", None).table("forget01", "train", SCHEMA)


def test_the_hub_is_read_through_datasets(monkeypatch):
    import datasets

    asked = []

    def hub(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", hub)
    rows = source("a/b", None).table("raw", "forget", SCHEMA)
    assert [r["question"] for r in rows] == [r["question"] for r in ROWS]
    assert asked == [(("a/b", "raw"), {"split": "forget"})]
