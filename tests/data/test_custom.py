"""Build a benchmark from a user's own table."""

import json

import pandas as pd
import pytest

from unpact_lens.data.custom import from_pairs
from unpact_lens.data.load import load_benchmark
from unpact_lens.errors import InputError

ROWS = [
    {"question": "Where was Ann born?", "answer": "Ann was born in Oslo.", "fact": "Oslo"},
    {
        "prompt": "When?",
        "answer": " 1900",
        "group": "near",
        "kind": "year",
        "id": "w",
        "paraphrases": ["In what year?"],
    },
    {"prompt": "Who?", "answer": "Bo", "group": "retain", "choices": [" Bo", " Cy"]},
    {"prompt": "2+2=", "answer": "4", "group": "general", "aliases": ["four", "四"]},
]


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "frame"])
def test_every_form_of_table_gives_the_same_benchmark(tmp_path, form):
    file = tmp_path / f"t.{form}"
    frame = pd.DataFrame(ROWS)
    if form == "jsonl":
        file.write_text("\n".join(map(json.dumps, ROWS)))
    elif form == "json":
        file.write_text(json.dumps(ROWS))
    elif form == "csv":
        lists = {
            c: frame[c].map(lambda v: json.dumps(v) if isinstance(v, list) else v)
            for c in ("paraphrases", "choices", "aliases")
        }
        frame.assign(**lists).to_csv(file, index=False)
    bench = from_pairs(frame if form == "frame" else file, name="mine", chat=True)
    assert (bench.forget[0].prompt, bench.forget[0].answer) == ("Where was Ann born?", "Ann was born in Oslo.")
    assert (bench.forget[0].fact, bench.forget[0].kind, bench.forget[0].id) == ("Oslo", "place", "row 1")
    assert (bench.near[0].answer, bench.near[0].kind, bench.near[0].id) == (" 1900", "year", "w")
    assert bench.near[0].paraphrases == ("In what year?",)
    assert bench.far[0].choices == (" Bo", " Cy")
    assert bench.general[0].answer == "4"
    assert [q.aliases for q in (*bench.forget, *bench.general)] == [(), ("four", "四")]
    assert (bench.name, bench.chat) == ("mine", True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Who?"}, "the DataFrame, row 1: column 'answer' is absent"),
        ({"answer": "Bo"}, "row 1: neither 'prompt' nor 'question' is given"),
        ({"prompt": "Who?", "answer": "Bo", "group": "keep"}, "row 1: column 'group' is 'keep'; known are forget"),
        ({"prompt": "Who?", "answer": "Bo", "fact": "Cy"}, "row 1: column 'fact' 'Cy' does not occur in the answer"),
        ({"prompt": "Who?", "answer": "Bo", "choices": ["Cy"]}, "the answer ' Bo' is not one of its choices ' Cy'"),
        ({"prompt": "Who?", "answer": "Bo", "perturbed": [True]}, "column 'perturbed' should be a list of texts"),
    ],
)
def test_a_wrong_row_is_named_with_its_column(row, message):
    with pytest.raises(InputError, match=message):
        from_pairs(pd.DataFrame([row]))


def test_repeated_ids_and_unknown_options_are_errors():
    rows = [{"prompt": "a", "answer": "b", "id": "x"}] * 2
    with pytest.raises(InputError, match="QA id 'x' occurs twice"):
        from_pairs(pd.DataFrame(rows))
    with pytest.raises(InputError, match="unknown option 'cat' of from_pairs; known are chat"):
        from_pairs(pd.DataFrame(rows), cat=True)


def test_load_benchmark_pairs_equals_from_pairs(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("question,answer\nWho?,Bo\n")
    assert load_benchmark("pairs", path=file, max_new_tokens=5) == from_pairs(file, max_new_tokens=5)
    with pytest.raises(InputError, match="give path=<a csv, json, jsonl or parquet file>"):
        load_benchmark("pairs")


def test_the_texts_that_end_an_answer_are_an_option(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    assert load_benchmark("pairs", path=file, retain_split=None).stop == ("\n",)
    assert load_benchmark("pairs", path=file, retain_split=None, stop=()).stop == ()
    assert from_pairs(file, retain_split=None, stop=("END",)).stop == ("END",)
